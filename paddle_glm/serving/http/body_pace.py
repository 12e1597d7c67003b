"""How fast large bodies are read: who floods the server with them must not hold up the streams of others."""

import asyncio

UNPACED_BYTES = 64 << 10  # of each body; prompts of most requests
BYTES_PER_SECOND = 16 << 20  # 1 MB takes 4 ms of a processor to be read, parsed and refused


class BodyPace:
    """Lets all bodies together take `BYTES_PER_SECOND`, each but its first `UNPACED_BYTES`."""

    def __init__(self) -> None:
        self._due = 0.0  # by the event loop's clock: when all bytes so far may have been read

    async def wait(self, new: int, total: int) -> None:
        """Wait for the turn of a body's `new` bytes, with which it has `total`."""
        paced = min(new, total - UNPACED_BYTES)
        if paced <= 0:
            return
        now = asyncio.get_running_loop().time()
        self._due = max(self._due, now) + paced / BYTES_PER_SECOND
        await asyncio.sleep(self._due - now)
