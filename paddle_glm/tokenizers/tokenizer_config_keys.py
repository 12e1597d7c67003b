"""Checks `tokenizer_config.json` and its companions against a tokenizer.

Each tokenizer class has rules for the keys that its original reads (`config_rules`). Special tokens that the
files add must be the family's, with the same ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from paddle_glm.errors import InputError
from paddle_glm.key_rules import Ignored, Restricted, Rule, read_fields
from paddle_glm.tokenizers.base import Tokenizer
from paddle_glm.tokenizers.files import CONFIG_FILE

COMMON_RULES: dict[str, Rule] = {
    "padding_side": Ignored("prompts are always padded on the left"),
    "truncation_side": Restricted(("right",)),
    "tokenizer_class": Ignored("the family determines the class"),
    "model_max_length": Ignored("only warned about; truncation takes max_length"),
    "chat_template": Ignored("the original's chat builds its prompts in code"),
    "split_special_tokens": Ignored("special tokens in a text are always plain text"),
}


def check_tokenizer_config(tokenizer: Tokenizer) -> None:
    """Raise `InputError` if the files next to a tokenizer ask for other ids or texts than its own."""
    # transformers writes a token as its text, or as an object with the text in "content".
    given = {
        key: _token_text(value) if key.endswith("_token") else value
        for key, value in tokenizer.config.items()
    }
    read_fields(tokenizer.config_rules, given, CONFIG_FILE)
    for source, token, index in _added_tokens(tokenizer):
        known = tokenizer.special_tokens.get(token, tokenizer.sp_model.piece_to_id(token))
        unknown = token not in tokenizer.special_tokens and known == tokenizer.sp_model.unk_id() != index
        if unknown or index not in (None, known):
            place = "" if index is None else f" as {index}"
            raise InputError(
                f"{source} adds the token {token!r}{place}: texts that hold it would get other ids; only the "
                f"special tokens of {tokenizer.family} are supported, each under its own id"
            )


def _added_tokens(tokenizer: Tokenizer) -> Iterator[tuple[str, str, int | None]]:
    """(file, token, id or None) of every token that the files add."""
    decoder = tokenizer.config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict) or not all(map(str.isdecimal, decoder)):
        raise InputError(
            f"{CONFIG_FILE} says added_tokens_decoder = {decoder!r}: expected ids and their tokens"
        )
    for index, value in decoder.items():
        yield CONFIG_FILE, _token_text(value), int(index)
    for value in tokenizer.config.get("additional_special_tokens") or ():
        yield CONFIG_FILE, _token_text(value), None
    path = tokenizer.model_file.with_name("added_tokens.json")
    if path.is_file():
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is not valid JSON ({error}): mend it or download it again") from error
        for token, index in values.items() if isinstance(values, dict) else ():
            yield path.name, token, index


def _token_text(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value
