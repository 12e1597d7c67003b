"""A small SentencePiece model with the properties of ChatGLM2's: byte fallback, no normalisation."""

import io
from pathlib import Path

import sentencepiece

LINES = (
    "类型#裤*版型#宽松*风格#性感*图案#线条*裤型#阔腿裤",
    "宽松的阔腿裤这两年真的吸粉不少，明星时尚达人的心头爱。",
    "小明每天早上花费10分钟时间走到学校，那么他每分钟走多少米？",
    "[Round 1] 问：你好 答：你好，世界！",
    "Hello, world! The quick brown fox jumps over the lazy dog.",
)


def write_tiny_model(path: Path, vocab_size: int = 400) -> Path:
    """Train on a few lines (0.1 s) and write the model file."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return path
