"""Tokens to text while they arrive, never half a character."""

from collections.abc import Callable, Sequence

_REPLACEMENT_CHARACTER = (
    "\N{REPLACEMENT CHARACTER}"  # what a decoder gives for bytes that are not a whole character
)
_MAX_PENDING_BYTES = 3  # bytes of a character that is not whole yet, at most


class StreamingDetokenizer:
    """Turns ids into pieces of text; the pieces joined are `decode` of all ids.

    A character may span several tokens (SentencePiece's byte pieces), so text that ends in U+FFFD is held
    back until it is whole, or until `finish`. Each step decodes a few tokens before the new ones only,
    so the cost is linear in the answer's length: they are there because a first token loses its space.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self.decode = decode
        self.ids: list[int] = []
        self.context_offset = 0  # where the tokens begin that are decoded again
        self.read_offset = 0  # tokens before this one have been given out

    def push(self, ids: Sequence[int]) -> str:
        """Take more ids; returns the text that is final so far, often empty."""
        self.ids.extend(ids)
        text = self.decode(self.ids[self.context_offset :])
        if not text.endswith(_REPLACEMENT_CHARACTER):
            return self._emit(text, len(self.ids))
        # Bytes that can never become a character must not be held for ever: all but the last three are final.
        end = len(self.ids) - _MAX_PENDING_BYTES
        if text.endswith(_REPLACEMENT_CHARACTER * (_MAX_PENDING_BYTES + 1)) and end > self.read_offset:
            final = self.decode(self.ids[self.context_offset : end])
            if final + _REPLACEMENT_CHARACTER * _MAX_PENDING_BYTES == text:
                return self._emit(final, end)
        return ""

    def finish(self) -> str:
        """The rest, whole or not."""
        return self._emit(self.decode(self.ids[self.context_offset :]), len(self.ids))

    def _emit(self, text: str, end: int) -> str:
        known = len(self.decode(self.ids[self.context_offset : self.read_offset]))
        piece = text[known:]
        if piece.strip(" "):  # tokens that decode to spaces alone would lose them as a beginning
            self.context_offset = self.read_offset
        self.read_offset = end
        return piece
