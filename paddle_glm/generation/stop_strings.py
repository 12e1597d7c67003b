"""Stop strings in streamed text."""

from collections.abc import Sequence

from paddle_glm.generation.text_filters import begun_length


class StopStringChecker:
    """Passes pieces of an answer through up to the first stop string, exclusive.

    A possible start of a stop string is withheld.
    """

    def __init__(self, stop_strings: Sequence[str] = ()) -> None:
        self.stop_strings = tuple(stop_strings)
        self.emitted = ""
        self.stopped = False
        self._pending = ""

    def push(self, piece: str) -> str:
        """Take more text; return what has become final, and nothing after a stop string."""
        if self.stopped:
            return ""
        text = self._pending + piece
        places = [place for stop in self.stop_strings if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, self._pending = True, ""
            return self._emit(text[: min(places)])
        pending_length = max((begun_length(text, stop) for stop in self.stop_strings), default=0)
        self._pending = text[len(text) - pending_length :]
        return self._emit(text[: len(text) - pending_length])

    def finish(self) -> str:
        """The withheld text, if the answer ended without a stop string."""
        held, self._pending = self._pending, ""
        return self._emit(held)

    def _emit(self, text: str) -> str:
        self.emitted += text
        return text
