"""How the SentencePiece model of a family is laid out."""

from dataclasses import dataclass

_NUM_BYTE_PIECES = 256


@dataclass(frozen=True)
class SentencePieceSettings:
    """Settings of SentencePiece's trainer in which families differ.

    All use BPE, a dummy prefix, byte pieces for unknown characters, and the ids `<unk>` 0, `<s>` 1, `</s>` 2.

    normalization: name of SentencePiece's rule. keep_whitespace: whether runs of blanks survive.
    pad_id: id of `<pad>`, -1 for none. symbols: pieces that are found in texts as they are.
    controls: pieces that texts cannot spell.
    """

    normalization: str
    keep_whitespace: bool
    pad_id: int = -1
    symbols: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()

    @property
    def num_reserved(self) -> int:
        """Pieces that are not learnt."""
        return 3 + (self.pad_id >= 0) + len(self.symbols) + len(self.controls) + _NUM_BYTE_PIECES
