"""Trains a small SentencePiece model that is laid out as ChatGLM2's is."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from paddle_glm.errors import InputError

# 3 control pieces and 256 bytes come before anything learnt.
RESERVED_PIECES = 259


def train_tokenizer(texts: Iterable[str], path: str | Path, vocab_size: int = 1200) -> Path:
    """Writes a SentencePiece model of at most `vocab_size` pieces, learnt from `texts`, to `path`.

    Settings are those in ChatGLM2-6B's `tokenizer.model`: BPE, bytes for unknown characters, identity
    normalisation, dummy prefix, `<unk>` 0, `<s>` 1, `</s>` 2, no padding piece. The tokenizer class
    appends the special tokens behind the pieces. The same texts give the same file.

    Raises InputError where the texts cannot fill the vocabulary.
    """
    import sentencepiece

    if vocab_size <= RESERVED_PIECES:
        raise InputError(
            f"vocab_size {vocab_size} leaves nothing to learn: ask for more than {RESERVED_PIECES}"
        )
    # Line breaks stand in no piece, as in the original, so that they become byte pieces.
    lines = [line for text in texts for line in text.splitlines() if line]
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_without_rare(lines, vocab_size - RESERVED_PIECES)),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=True,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentencepiece_length=16,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
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


def _without_rare(lines: Sequence[str], room: int) -> list[str]:
    """The lines cut at their rarest characters, which then become bytes.

    SentencePiece wants a piece for every character it sees; here they get three quarters of `room` at
    most, so that words can be learnt too.
    """
    counts = Counter(character for line in lines for character in line)
    kept = {character for character, _ in counts.most_common(room * 3 // 4)}
    cut = ("".join(character if character in kept else "\n" for character in line) for line in lines)
    return [part for line in cut for part in line.split("\n") if part]
