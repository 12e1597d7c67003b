"""`Tokenizer`: what the families' tokenizers share (SentencePiece, truncation, left padding, saving).

A family's `tokenizer.py` adds its special tokens, how text becomes pieces and where the special tokens go.
"""

from __future__ import annotations

import json
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from paddle_glm.chat_template import ChatTemplate, Message, RoundTemplate, render
from paddle_glm.config import FAMILY_KEY, ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.key_rules import Rules
from paddle_glm.models.family import family_of
from paddle_glm.tokenizers.encoding import BatchEncoding, as_tensors, padded_length, truncate
from paddle_glm.tokenizers.files import CONFIG_FILE, load_sentencepiece, read_config
from paddle_glm.tokenizers.sentencepiece_settings import SentencePieceSettings

_BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")  # of a character that has no piece


class Tokenizer(ABC):
    """A SentencePiece model and a family's special tokens."""

    vocab_file: ClassVar[str]
    family: ClassVar[str]
    template: ClassVar[ChatTemplate]
    hub_config: ClassVar[dict[str, Any]]
    """`tokenizer_config.json` of the released model."""
    config_rules: ClassVar[Rules]
    """Rules for the keys of `tokenizer_config.json`."""
    sentencepiece: ClassVar[SentencePieceSettings]
    command_tokens: ClassVar[tuple[str, ...]]
    """Special tokens that `encode_special_tokens` recognises in a text."""
    padding_side: ClassVar[str] = "left"

    def __init__(self, model_file: str | Path, config: Mapping[str, Any] | None = None) -> None:
        """config: the contents of `tokenizer_config.json`, written back on saving."""
        self.model_file = Path(model_file)
        self.sp_model = load_sentencepiece(self.model_file)
        self.config = dict(config or {})

    # -- defined by a family -------------------------------------------------------------------

    @property
    @abstractmethod
    def special_tokens(self) -> dict[str, int]:
        """Special token -> id."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids with a piece or a special token."""

    @property
    @abstractmethod
    def eos_token_id(self) -> int: ...

    @property
    @abstractmethod
    def pad_token_id(self) -> int: ...

    @property
    @abstractmethod
    def bos_token_id(self) -> int: ...

    @property
    @abstractmethod
    def unk_token_id(self) -> int | None: ...

    @abstractmethod
    def text_to_pieces(self, text: str) -> list[str]:
        """SentencePiece's pieces of a text; special tokens in it are plain text."""

    @abstractmethod
    def convert_token_to_id(self, token: str) -> int: ...

    @abstractmethod
    def convert_id_to_token(self, index: int) -> str: ...

    @abstractmethod
    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str: ...

    @abstractmethod
    def build_inputs_with_special_tokens(
        self, first: list[int], second: list[int] | None = None
    ) -> list[int]:
        """Ids of a text, or of a question and its answer, with the special tokens of a prompt."""

    @abstractmethod
    def tokenizer_spec(self) -> dict[str, Any]:
        """How ids and text differ from SentencePiece's, as a JSON value for programs in other languages.

        pieces: number of SentencePiece's pieces. offset: added to SentencePiece's ids.
        spelled: (text, piece) pairs; texts are replaced in this order before encoding, pieces after decoding.
        texts: (id, text) of ids that are not decoded as their piece.
        below_offset: token of ids below `offset`; `{index}` stands for the id. Other ids have no text.
        """

    def build_prompt(self, query: str, history: Sequence[tuple[str, str]] | None = None) -> str:
        """The prompt that asks `query` after the (question, answer) pairs of `history`."""
        if not isinstance(self.template, RoundTemplate):
            raise InputError(f"{self.family} has no prompt text: use build_chat_input, which gives ids")
        return self.template.prompt(query, history or ())

    # -- ids ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.vocab_size

    def get_command(self, token: str) -> int:
        """The id of a special token; raises InputError listing the known ones."""
        try:
            return self.special_tokens[token]
        except KeyError:
            known = ", ".join(self.special_tokens)
            raise InputError(f"{token!r} is not a special token of {self.family}: it has {known}") from None

    def get_vocab(self) -> dict[str, int]:
        return {self.convert_id_to_token(index): index for index in range(self.vocab_size)}

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token, or the ids of a list."""
        if isinstance(tokens, str):
            return self.convert_token_to_id(tokens)
        return [self.convert_token_to_id(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of a list or an array."""
        values = _as_list(ids)
        if isinstance(values, int):
            return self.convert_id_to_token(values)
        skipped = self.skipped_ids if skip_special_tokens else frozenset()
        return [self.convert_id_to_token(index) for index in values if index not in skipped]

    @property
    def skipped_ids(self) -> frozenset[int]:
        """Ids that `skip_special_tokens` drops."""
        return frozenset((self.bos_token_id, self.eos_token_id, self.pad_token_id))

    # -- text to ids --------------------------------------------------------------------------

    def tokenize(self, text: str, encode_special_tokens: bool = False) -> list[str]:
        """Pieces of a text. encode_special_tokens: recognise `command_tokens` in it.

        Off by default, so that users who type `<|system|>` do not get that role.
        """
        check_text(text)
        if not encode_special_tokens:
            return self.text_to_pieces(text)
        tokens: list[str] = []
        for part in re.split(f"({'|'.join(map(re.escape, self.command_tokens))})", text):
            tokens += [part] if part in self.command_tokens else self.text_to_pieces(part)
        return tokens

    def token_bytes(self, index: int) -> bytes:
        """The UTF-8 bytes that a token stands for; not a whole character for SentencePiece's byte pieces."""
        token = self.convert_id_to_token(index)
        if byte := _BYTE_PIECE.fullmatch(token):
            return bytes([int(byte[1], 16)])
        return self._spelled_texts.get(token, token).replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()

    @cached_property
    def _spelled_texts(self) -> dict[str, str]:
        """Texts by the pieces that stand for them."""
        return {piece: text for text, piece in self.tokenizer_spec()["spelled"]}

    @cached_property
    def longest_piece(self) -> int:
        """Characters of the longest text that is one token."""
        pieces = self.sp_model.id_to_piece(list(range(self.sp_model.get_piece_size())))
        return max(map(len, [*pieces, *self._spelled_texts.values()]))

    def text_to_ids(self, text: str, encode_special_tokens: bool = False) -> list[int]:
        """Ids of a text, without the special tokens of a prompt."""
        return [self.convert_token_to_id(token) for token in self.tokenize(text, encode_special_tokens)]

    def encode(
        self,
        text: str,
        text_pair: str | None = None,
        add_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int | None = None,
        encode_special_tokens: bool = False,
    ) -> list[int]:
        """Ids of a text or a pair. Truncation is on the right; `max_length` includes the special tokens."""
        first = self.text_to_ids(text, encode_special_tokens)
        second = None if text_pair is None else self.text_to_ids(text_pair, encode_special_tokens)
        if truncation:
            if max_length is None:
                raise InputError("truncation=True needs max_length, the number of tokens to keep")
            added = len(self.build_inputs_with_special_tokens([], second and [])) if add_special_tokens else 0
            first, second = truncate(first, second, max_length - added)
        if add_special_tokens:
            return self.build_inputs_with_special_tokens(first, second)
        return first + (second or [])

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Model inputs: `input_ids`, `attention_mask` and `position_ids` of a text, or of a list of texts.

        padding: False, True (or "longest"), or "max_length"; on the left.
        return_tensors: None for lists, "np" for numpy arrays, "pd" for Paddle tensors, int64 [batch, tokens];
            a single text is then a batch of one.
        """
        single = isinstance(text, str)
        texts = [text] if isinstance(text, str) else list(text)
        pairs: list[str | None] = [None] * len(texts)
        if text_pair is not None:
            pairs = [text_pair] if isinstance(text_pair, str) else list(text_pair)
        if len(pairs) != len(texts):
            raise InputError(f"{len(texts)} texts but {len(pairs)} text_pair: give one for each")
        sequences = [
            self.sequence_inputs(self.encode(first, second, add_special_tokens, truncation, max_length))
            for first, second in zip(texts, pairs, strict=True)
        ]
        batch = self.pad(sequences, padding, max_length, pad_to_multiple_of, return_tensors)
        if single and return_tensors is None:
            return BatchEncoding({name: rows[0] for name, rows in batch.items()})
        return batch

    @cached_property
    def model_config(self) -> ModelConfig:
        """The model whose positions `sequence_inputs` gives."""
        return ModelConfig(family=self.family)

    def sequence_inputs(self, ids: list[int]) -> dict[str, Any]:
        """Inputs of one sequence, without padding; `position_ids` are the family's `positions`."""
        row = np.asarray([ids], dtype=np.int64)
        positions = family_of(self.model_config).positions(self.model_config, row, np.ones_like(row))
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "position_ids": positions[0].tolist()}

    def pad_inputs(self, inputs: Mapping[str, Any], length: int) -> dict[str, Any]:
        """Inputs of one sequence padded on the left to `length`; padding has mask 0 and position 0."""
        missing = length - len(inputs["input_ids"])
        filler = {"input_ids": self.pad_token_id}
        return {name: _pad_left(values, missing, filler.get(name, 0)) for name, values in inputs.items()}

    def pad(
        self,
        encoded: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Inputs of several sequences, given as a list of inputs or as inputs of lists, padded on the left.

        Arguments are those of `__call__`. Sequences longer than `max_length` are not truncated.
        """
        if isinstance(encoded, Mapping):
            count = len(encoded["input_ids"])
            encoded = [{name: rows[index] for name, rows in encoded.items()} for index in range(count)]
        rows = [
            dict(row) if len(row) > 1 else self.sequence_inputs(list(row["input_ids"])) for row in encoded
        ]
        length = padded_length(
            [len(row["input_ids"]) for row in rows], padding, max_length, pad_to_multiple_of
        )
        if length is not None:
            rows = [self.pad_inputs(row, max(length, len(row["input_ids"]))) for row in rows]
        batch = BatchEncoding({name: [row[name] for row in rows] for name in rows[0]} if rows else {})
        return batch if return_tensors is None else as_tensors(batch, return_tensors)

    def apply_chat_template(
        self,
        conversation: Sequence[Message] | Sequence[Sequence[Message]],
        add_generation_prompt: bool = True,
        tokenize: bool = True,
        padding: bool | str = False,
        return_tensors: str | None = None,
        return_dict: bool = True,
    ) -> BatchEncoding:
        """Model inputs of the prompt for a conversation, or for a batch of conversations.

        conversation: messages `{"role": ..., "content": ...}`; the last is not the assistant's.
        padding, return_tensors: as in `__call__`. The other flags of transformers must be True.
        Raises `InputError` for messages that the family's template does not support.
        """
        if not (add_generation_prompt and tokenize and return_dict):
            raise InputError("apply_chat_template gives the inputs of a prompt: leave its flags at True")
        is_single = len(conversation) > 0 and isinstance(conversation[0], dict)
        conversations: Any = [conversation] if is_single else conversation
        prompts = [render(self.template, self, messages) for messages in conversations]
        if any(any(prompt.loss_mask) for prompt in prompts):
            raise InputError("the assistant has the last message of the conversation: expected the user's")
        sequences = [self.sequence_inputs(prompt.input_ids) for prompt in prompts]
        batch = self.pad(sequences, padding, return_tensors=return_tensors)
        if is_single and return_tensors is None:
            return BatchEncoding({name: rows[0] for name, rows in batch.items()})
        return batch

    # -- ids to text --------------------------------------------------------------------------

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """Text of ids (a list, an array, or a single id), as the original class decodes it."""
        values = _as_list(ids)
        tokens = self.convert_ids_to_tokens(
            [values] if isinstance(values, int) else values, skip_special_tokens
        )
        return self.convert_tokens_to_string(tokens)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> list[str]:
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    # -- files --------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Tokenizer:
        """Load from a folder with `vocab_file` and maybe `tokenizer_config.json`, or from the file itself."""
        path = Path(folder)
        model_file = path / cls.vocab_file if path.is_dir() else path
        return cls(model_file, read_config(model_file.parent))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the SentencePiece model, and `tokenizer_config.json` with the hub's keys and the family."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        if (target / self.vocab_file).resolve() != self.model_file.resolve():
            shutil.copyfile(self.model_file, target / self.vocab_file)
        values = {**self.hub_config, **self.config, FAMILY_KEY: self.family}
        text = json.dumps(values, ensure_ascii=False, indent=2)
        (target / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def check_text(text: Any) -> None:
    """Raise `InputError` for what is not text, and for half of a surrogate pair, which no encoding has."""
    if not isinstance(text, str):
        raise InputError(f"cannot tokenize {text!r}: expected text, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        lone = text[error.start]
        raise InputError(
            f"cannot tokenize {lone!r} at position {error.start}: half of a surrogate pair is no character"
        ) from None


def _pad_left(values: Sequence[Any], count: int, filler: int) -> list[Any]:
    """The list, or each list in it, after `count` fillers."""
    if len(values) and np.ndim(values[0]):
        return [_pad_left(row, count, filler) for row in values]
    return [filler] * count + list(values)


def _as_list(ids: Any) -> Any:
    """An int or a list for a number, list, numpy array or Paddle tensor."""
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    return values if isinstance(values, int) else list(values)
