"""Synthetic advertisement rows: `类型#裙*颜色#白色*...` and a text that realises every attribute.

A small model learns the task in minutes, because each clause depends on one attribute and clauses follow the
order of attributes. It still has to read the prompt: validation rows are combinations that the training rows
do not contain.
"""

import json
import random
from pathlib import Path

from paddle_glm.errors import InputError
from paddle_glm.tiny.phrases import OPENINGS, PHRASES, TYPES

Row = dict[str, str]

# How often the preferred phrasing is used; a trained model scores well, but not perfectly.
PREFERRED_PROBABILITY = 0.75


def make_rows(
    count: int, seed: int = 0, exclude: frozenset[str] | set[str] = frozenset(), preferred: int = 0
) -> list[Row]:
    """`count` rows with distinct `content`, none of it in `exclude`.

    preferred: index of the preferred phrasing; 1 gives rows in another style. Deterministic on all machines.
    Raises InputError for a count outside 0 to 200000.
    """
    if not 0 <= count <= 200_000:
        raise InputError(f"cannot make {count} rows: ask for 0 to 200000")
    generator = random.Random(seed)
    seen = set(exclude)
    rows: list[Row] = []
    while len(rows) < count:
        row = _make_row(generator, preferred)
        if row["content"] not in seen:
            seen.add(row["content"])
            rows.append(row)
    return rows


def write_dataset(
    folder: str | Path, train: int = 6000, dev: int = 200, seed: int = 0, preferred: int = 0
) -> Path:
    """Write `train.json` and `dev.json` (JSON Lines) to `folder`, in AdvertiseGen's layout."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dev_rows = make_rows(dev, seed=seed + 1, preferred=preferred)
    train_rows = make_rows(
        train, seed=seed, exclude={row["content"] for row in dev_rows}, preferred=preferred
    )
    for name, rows in (("train.json", train_rows), ("dev.json", dev_rows)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    return folder


def _make_row(generator: random.Random, preferred: int) -> Row:
    garment = generator.choice(list(TYPES))
    noun = generator.choice(TYPES[garment]["样式"])
    attributes = generator.sample(TYPES[garment]["属性"], k=generator.randint(2, 4))
    pairs = [(name, generator.choice(list(PHRASES[name]))) for name in attributes]
    content = "*".join(f"{name}#{value}" for name, value in [("类型", garment), ("样式", noun), *pairs])
    clauses = [_choose(generator, PHRASES[name][value], preferred) for name, value in pairs]
    opening = _choose(generator, OPENINGS, preferred).format(noun)
    summary = opening + "，".join(clauses) + "。" + _choose(generator, TYPES[garment]["结尾"], preferred)
    return {"content": content, "summary": summary}


def _choose(generator: random.Random, phrasings: tuple[str, ...], preferred: int) -> str:
    """The preferred phrasing with PREFERRED_PROBABILITY, otherwise one of the others."""
    others = phrasings[:preferred] + phrasings[preferred + 1 :]
    return phrasings[preferred] if generator.random() < PREFERRED_PROBABILITY else generator.choice(others)
