"""Training of a small SentencePiece model with the settings of a family's tokenizer."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from paddle_glm.errors import InputError
from paddle_glm.tokenizers.sentencepiece_settings import SentencePieceSettings


def train_tokenizer(
    texts: Iterable[str], path: str | Path, vocab_size: int, settings: SentencePieceSettings
) -> Path:
    """Train a SentencePiece model of `vocab_size` pieces on `texts` and write it to `path`.

    settings: those of the family's tokenizer class. The same texts give the same file.

    Raises InputError where the texts cannot fill the vocabulary.
    """
    import sentencepiece

    if vocab_size <= settings.num_reserved:
        raise InputError(
            f"vocab_size {vocab_size} leaves no pieces to learn: expected more than {settings.num_reserved}"
        )
    # No piece contains a line break, as in the original: line breaks become byte pieces.
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
            f"use fewer pieces or more text ({error})"
        ) from error
    path = Path(path)
    path.write_bytes(model.getvalue())
    return path


def _drop_rare_characters(lines: Sequence[str], room: int) -> list[str]:
    """Split the lines at their rarest characters, which then use byte fallback.

    SentencePiece needs a piece for every character; here characters get at most three quarters of `room`, so
    that longer pieces are learnt too.
    """
    counts = Counter(character for line in lines for character in line)
    kept = {character for character, _ in counts.most_common(room * 3 // 4)}
    cut = ("".join(character if character in kept else "\n" for character in line) for line in lines)
    return [part for line in cut for part in line.split("\n") if part]
