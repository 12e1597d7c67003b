"""Texts that end an answer, found while it arrives."""

from collections.abc import Sequence


class StopTexts:
    """Pieces of an answer -> the same pieces up to the first of `stops`, which is not given out.

    Held back is what may be the beginning of a stop.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stops = tuple(stops)
        self.given = ""
        self.met = False
        self._held = ""

    def push(self, piece: str) -> str:
        """Take more text; returns what is certain by now, and nothing more once a stop was met."""
        if self.met:
            return ""
        text = self._held + piece
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:
            self.met, self._held = True, ""
            return self._give(text[: min(places)])
        open_length = max((_begun(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - open_length :]
        return self._give(text[: len(text) - open_length])

    def finish(self) -> str:
        """What was held back, when the answer has ended without a stop."""
        held, self._held = self._held, ""
        return self._give(held)

    def _give(self, text: str) -> str:
        self.given += text
        return text


def _begun(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
