"""Tokens to text while they arrive, never half a character."""

from collections.abc import Callable, Sequence

_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a decoder gives for bytes that are not a whole character
_PENDING = 3  # bytes of a character that is not whole yet, at most


class TextStream:
    """Turns ids into pieces of text; the pieces joined are `decode` of all ids.

    A character may span several tokens (SentencePiece's byte pieces), so text that ends in U+FFFD is held
    back until it is whole, or until `finish`. Each step decodes a few tokens before the new ones only,
    so the cost is linear in the answer's length: they are there because a first token loses its space.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self.decode = decode
        self.ids: list[int] = []
        self.context = 0  # where the tokens begin that are decoded again
        self.given = 0  # tokens before this one have been given out

    def push(self, ids: Sequence[int]) -> str:
        """Take more ids; returns the text that is certain by now, often empty."""
        self.ids.extend(ids)
        text = self.decode(self.ids[self.context :])
        if not text.endswith(_BROKEN):
            return self._give(text, len(self.ids))
        # Bytes that can never become a character must not be held for ever: all but the last three are final.
        end = len(self.ids) - _PENDING
        if text.endswith(_BROKEN * (_PENDING + 1)) and end > self.given:
            final = self.decode(self.ids[self.context : end])
            if final + _BROKEN * _PENDING == text:
                return self._give(final, end)
        return ""

    def finish(self) -> str:
        """The rest, whole or not."""
        return self._give(self.decode(self.ids[self.context :]), len(self.ids))

    def _give(self, text: str, end: int) -> str:
        known = len(self.decode(self.ids[self.context : self.given]))
        piece = text[known:]
        if piece.strip(" "):  # tokens that decode to spaces alone would lose them as a beginning
            self.context = self.given
        self.given = end
        return piece
