"""Trains a small SentencePiece model that is laid out as a family's is."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle_glm.errors import InputError
from paddle_glm.models.chatglm import tokenizer as chatglm

_NUM_BYTE_PIECES = 256


@dataclass(frozen=True)
class SentencePieceSettings:
    """What the SentencePiece models of a family have in common: BPE, a dummy prefix, bytes for unknown
    characters, `<unk>` 0, `<s>` 1, `</s>` 2, and what is given here.

    symbols: pieces found in texts as they are; controls: pieces that texts cannot spell.
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


# By the file's name. The tokenizers of tokenizer.model append special tokens behind the pieces;
# ice_text.model holds them, and pieces for line breaks, tabs and runs of blanks.
SENTENCEPIECE_SETTINGS = {
    "tokenizer.model": SentencePieceSettings(normalization="identity", keep_whitespace=True),
    "ice_text.model": SentencePieceSettings(
        normalization="nmt_nfkc",
        keep_whitespace=False,
        pad_id=3,
        symbols=(
            *(chatglm.LINE_BREAK, chatglm.TAB),
            *(chatglm.blank_token(length) for length in range(2, chatglm.MAX_BLANK_LENGTH + 1)),
        ),
        controls=chatglm.COMMAND_TOKENS,
    ),
}


def train_tokenizer(
    texts: Iterable[str], path: str | Path, vocab_size: int = 1200, layout: str = "tokenizer.model"
) -> Path:
    """Writes a SentencePiece model of at most `vocab_size` pieces, learnt from `texts`, to `path`.

    layout: one of SENTENCEPIECE_SETTINGS. The same texts give the same file.

    Raises InputError where the texts cannot fill the vocabulary.
    """
    import sentencepiece

    settings = SENTENCEPIECE_SETTINGS[layout]
    if vocab_size <= settings.num_reserved:
        raise InputError(
            f"vocab_size {vocab_size} leaves nothing to learn: ask for more than {settings.num_reserved}"
        )
    # Line breaks stand in no piece, as in the original, so that they become byte pieces.
    lines = [line for text in texts for line in text.splitlines() if line]
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_drop_rare_characters(lines, vocab_size - settings.num_reserved)),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name=settings.normalization,
            add_dummy_prefix=True,
            remove_extra_whitespaces=not settings.keep_whitespace,
            allow_whitespace_only_pieces=settings.keep_whitespace,
            user_defined_symbols=list(settings.symbols),
            control_symbols=list(settings.controls),
            max_sentencepiece_length=16,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=settings.pad_id,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(
            f"no vocabulary of {vocab_size} pieces can be learnt from {len(lines)} lines: "
            f"ask for fewer pieces, or give more text ({error})"
        ) from error
    path = Path(path)
    path.write_bytes(model.getvalue())
    return path


def _drop_rare_characters(lines: Sequence[str], room: int) -> list[str]:
    """The lines cut at their rarest characters, which then become bytes.

    SentencePiece wants a piece for every character it sees; here they get three quarters of `room` at
    most, so that words can be learnt too.
    """
    counts = Counter(character for line in lines for character in line)
    kept = {character for character, _ in counts.most_common(room * 3 // 4)}
    cut = ("".join(character if character in kept else "\n" for character in line) for line in lines)
    return [part for line in cut for part in line.split("\n") if part]
