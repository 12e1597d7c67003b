"""Texts that end an answer, found while it arrives."""

from collections.abc import Sequence


class StopStringChecker:
    """Pieces of an answer -> the same pieces up to the first of `stop_strings`, which is not given out.

    Held back is what may be the beginning of a stop.
    """

    def __init__(self, stop_strings: Sequence[str] = ()) -> None:
        self.stop_strings = tuple(stop_strings)
        self.emitted = ""
        self.stopped = False
        self._pending = ""

    def push(self, piece: str) -> str:
        """Take more text; returns what is certain by now, and nothing more once a stop was met."""
        if self.stopped:
            return ""
        text = self._pending + piece
        places = [place for stop in self.stop_strings if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, self._pending = True, ""
            return self._emit(text[: min(places)])
        pending_length = max((_partial_stop_length(text, stop) for stop in self.stop_strings), default=0)
        self._pending = text[len(text) - pending_length :]
        return self._emit(text[: len(text) - pending_length])

    def finish(self) -> str:
        """What was held back, when the answer has ended without a stop."""
        held, self._pending = self._pending, ""
        return self._emit(held)

    def _emit(self, text: str) -> str:
        self.emitted += text
        return text


def _partial_stop_length(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
