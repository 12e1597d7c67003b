"""Every key of `tokenizer_config.json` that the originals' tokenizers read, and what is made of it here.

A special token that the files add is one of the family's, under its own id, or refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from paddle_glm.errors import InputError
from paddle_glm.key_rules import TOKEN_ID, Ignored, Mapped, Restricted, Rule, Rules, read_fields

if TYPE_CHECKING:
    from paddle_glm.tokenizers.base import Tokenizer

CONFIG_FILE = "tokenizer_config.json"

_COMMON_RULES: dict[str, Rule] = {
    "padding_side": Ignored("what is to be answered is padded on the left, always"),
    "truncation_side": Restricted(("right",)),
    "tokenizer_class": Ignored("the model's family says which class"),
    "model_max_length": Ignored("a warning there; truncation names its own length here"),
    "chat_template": Ignored("chat of the originals builds its prompts itself"),
    "split_special_tokens": Ignored("special tokens that are spelled in a text are text here, always"),
}
_FIXED_TOKEN_REASON = "the original keeps its own token, whatever the file says"
_CHATGLM2_RULES: Rules = {
    **_COMMON_RULES,
    "clean_up_tokenization_spaces": Restricted((False,)),
    "encode_special_tokens": Ignored("read by ChatGLM3 alone"),
    "do_lower_case": Ignored("not read by this family's original"),
    "remove_space": Ignored("not read by this family's original"),
    **{f"{name}_token": Ignored(_FIXED_TOKEN_REASON) for name in ("bos", "eos", "pad", "unk")},
}
_CHATGLM_RULES: Rules = {
    **_COMMON_RULES,
    "num_image_tokens": Mapped("num_image_tokens", TOKEN_ID),
    "do_lower_case": Restricted((False,)),
    "remove_space": Restricted((False,)),
    "clean_up_tokenization_spaces": Ignored("this family's original decodes without it"),
    "bos_token": Restricted(("<sop>",)),
    "eos_token": Restricted(("<eop>", "</s>")),  # the first releases' name, whose answers end with <eop> too
    "end_token": Restricted(("</s>",)),
    "mask_token": Restricted(("[MASK]",)),
    "gmask_token": Restricted(("[gMASK]",)),
    "pad_token": Restricted(("<pad>",)),
    "unk_token": Restricted(("<unk>",)),
}
RULES: Mapping[str, Rules] = {
    "chatglm": _CHATGLM_RULES,
    "chatglm2": _CHATGLM2_RULES,
    "chatglm3": {**_CHATGLM2_RULES, "encode_special_tokens": Restricted((False,))},
}


def check_tokenizer_config(tokenizer: Tokenizer) -> None:
    """Raise `InputError` where the files beside a tokenizer ask for other ids or texts than its own."""
    # transformers writes a token as its text, or as an object with the text as its content.
    given = {
        key: _token_text(value) if key.endswith("_token") else value
        for key, value in tokenizer.config.items()
    }
    read_fields(RULES[tokenizer.family], given, CONFIG_FILE)
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
    """(file, token, its id or None) of each token that the files add."""
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
