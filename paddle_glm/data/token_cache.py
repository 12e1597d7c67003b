"""Samples of a file, tokenized once and kept in a folder: data sets larger than memory, started in seconds.

A cache is a folder below `--dataset_cache`, named by the file and a digest of all that the tokens depend on.
It consists of parts of `ROWS_PER_PART` rows, which several processes write at once (`token_cache_writer`):

    key.json            what the digest is of, to be read by people
    part-00000.tokens   int32: ids of all samples one after the other; a token t without loss is stored as ~t
    part-00000.npz      lengths: tokens of each row that is not empty, 0 where no target is left;
                        empty: [rows, 2], index and number of each empty row; seen: the keys of its rows
    complete.json       {"parts", "rows"}; written when all parts are there
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from paddle_glm.array_types import Array, IntArray
from paddle_glm.chat_template import IGNORE_INDEX
from paddle_glm.data.data_files import Columns, ExampleReader, check_examples
from paddle_glm.data.row_formats import Example
from paddle_glm.data.row_reader import read_rows
from paddle_glm.data.samples import Sample, SampleFormat
from paddle_glm.data.token_cache_writer import COMPLETE_FILE, index_path, tokenize_file, tokens_path
from paddle_glm.errors import InputError
from paddle_glm.version import __version__

logger = logging.getLogger(__name__)

ROWS_PER_PART = 1 << 14
_FORMAT = 1  # of the files above


class TokenCache:
    """The samples of a file, from its cache. Indices count the rows that are not empty.

    lengths: tokens of each sample, int32 [rows]; 0 where no target is left.
    """

    def __init__(self, folder: Path, path: Path, columns: Columns | None, form: SampleFormat) -> None:
        """folder: a complete cache. Warns of empty rows, as `load_examples` does."""
        self.path, self.columns, self.form = path, columns, form
        parts = json.loads((folder / COMPLETE_FILE).read_text(encoding="utf-8"))["parts"]
        indices = [dict(np.load(index_path(folder, part))) for part in range(parts)]
        self.lengths: Array = _joined([one["lengths"] for one in indices], np.int32)
        self._empty = _joined([one["empty"] for one in indices], np.int64).reshape(-1, 2)
        seen = dict.fromkeys(key for one in indices for key in one["seen"].tolist())
        check_examples(path, len(self.lengths), self._empty[:, 1].tolist(), columns, seen)
        self._files = [tokens_path(folder, part) for part in range(parts)]
        self._starts = np.concatenate(([0], np.cumsum(self.lengths, dtype=np.int64)))  # of each sample
        ends = np.cumsum([len(one["lengths"]) for one in indices])
        self._part_starts = self._starts[np.concatenate(([0], ends[:-1]))]

    def __len__(self) -> int:
        return len(self.lengths)

    def sample(self, index: int) -> Sample:
        start, length = int(self._starts[index]), int(self.lengths[index])
        part = int(np.searchsorted(self._part_starts, start, side="right")) - 1
        offset = (start - int(self._part_starts[part])) * 4
        try:
            # Not mapped: each part's map would keep a file open, and its pages would count as this process's.
            tokens = np.fromfile(self._files[part], dtype="<i4", count=length, offset=offset)
        except OSError as error:
            raise _lost_file_error(self._files[part]) from error
        if len(tokens) != length:
            raise _lost_file_error(self._files[part])
        ids = np.where(tokens < 0, ~tokens, tokens)
        labels = np.where(tokens < 0, IGNORE_INDEX, tokens).astype(np.int64)
        return self.form.sample_of(ids.tolist(), labels)

    def examples(self, indices: IntArray) -> list[Example]:
        """The conversations of some rows, read from their file again, in its order."""
        rows = np.delete(np.arange(len(self) + len(self._empty)), self._empty[:, 0])
        wanted = set(rows[indices].tolist())
        reader = ExampleReader(self.path, self.columns)
        found = [reader.read(row, number) for number, row in read_rows(self.path, wanted.__contains__)]
        return [example for example in found if example is not None]

    def dataset(self, indices: IntArray) -> CachedDataset:
        return CachedDataset(self, indices)


class CachedDataset:
    """Training samples of a `TokenCache`: those of `rows` that have a target.

    Raises `InputError` if none has.
    """

    def __init__(self, cache: TokenCache, rows: IntArray) -> None:
        self.cache = cache
        self._rows = rows[cache.lengths[rows] > 0]
        cache.form.check_dropped(len(rows), len(rows) - len(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        return self.cache.sample(int(self._rows[index]))

    @property
    def lengths(self) -> Array:
        """Tokens of each sample, int32 [samples]."""
        lengths: Array = self.cache.lengths[self._rows]
        return lengths


def open_token_cache(
    folder: Path, path: Path, columns: Columns | None, form: SampleFormat, progress: bool = True
) -> TokenCache:
    """The cache of a file below `folder`; what it lacks is tokenized first.

    Every process of a run calls this; those that share the folder share the work. progress: log what is
    done, and show a bar. Raises `InputError` for rows that cannot be used, naming file, line and reason, and
    for a folder that cannot be written.
    """
    key = _cache_key(path, columns, form)
    text = json.dumps(key, ensure_ascii=False, indent=1, sort_keys=True)
    cache = folder / f"{path.stem}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
    complete = (cache / COMPLETE_FILE).is_file()
    if progress:
        logger.info("%s: tokens are %s %s", path, "read from" if complete else "written to", cache)
    if not complete:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            (cache / "key.json").write_text(text + "\n", encoding="utf-8")
            tokenize_file(cache, path, columns, form, ROWS_PER_PART, progress)
        except OSError as error:
            if error.filename is not None and Path(error.filename) == path:
                raise
            raise InputError(
                f"--dataset_cache {folder}: {error.strerror or error}: give a folder with space for 4 bytes "
                "per token that can be written"
            ) from error
    return TokenCache(cache, path, columns, form)


def _cache_key(path: Path, columns: Columns | None, form: SampleFormat) -> dict[str, Any]:
    """All that the tokens of a file depend on."""
    file, tokenizer = path.stat(), form.tokenizer
    vocabulary = hashlib.blake2b(tokenizer.model_file.read_bytes(), digest_size=16).hexdigest()
    return {
        "version": [_FORMAT, __version__],
        "file": [str(path.resolve()), file.st_size, file.st_mtime_ns],
        "columns": columns and vars(columns),
        "template": form.template.to_dict(),
        "tokenizer": [tokenizer.family, vocabulary, tokenizer.special_tokens],
        "lengths": [form.src_length, form.tgt_length],
        "rows_per_part": ROWS_PER_PART,
    }


def _joined(arrays: list[Array], dtype: type) -> Array:
    return np.concatenate([np.zeros(0, dtype), *(one.reshape(-1).astype(dtype) for one in arrays)])


def _lost_file_error(path: Path) -> InputError:
    return InputError(
        f"{path} was removed or changed: start the run again, and leave --dataset_cache alone while it runs"
    )
