"""Every key of `tokenizer_config.json` that the originals' tokenizers read, and what is made of it here.

A special token that the files add is one of the family's, under its own id, or refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from paddle_glm.errors import InputError
from paddle_glm.file_keys import TOKEN, Honoured, Ignored, Only, Rule, Rules, read

if TYPE_CHECKING:
    from paddle_glm.tokenizers.base import Tokenizer

CONFIG_FILE = "tokenizer_config.json"

_SHARED: dict[str, Rule] = {
    "padding_side": Ignored("what is to be answered is padded on the left, always"),
    "truncation_side": Only(("right",)),
    "tokenizer_class": Ignored("the model's family says which class"),
    "model_max_length": Ignored("a warning there; truncation names its own length here"),
    "chat_template": Ignored("chat of the originals builds its prompts itself"),
    "split_special_tokens": Ignored("special tokens that are spelled in a text are text here, always"),
}
_KEEPS_ITS_OWN = "the original keeps its own token, whatever the file says"
_GROUPED: Rules = {
    **_SHARED,
    "clean_up_tokenization_spaces": Only((False,)),
    "encode_special_tokens": Ignored("read by ChatGLM3 alone"),
    "do_lower_case": Ignored("not read by this family's original"),
    "remove_space": Ignored("not read by this family's original"),
    **{f"{name}_token": Ignored(_KEEPS_ITS_OWN) for name in ("bos", "eos", "pad", "unk")},
}
_TWO_ROWS: Rules = {
    **_SHARED,
    "num_image_tokens": Honoured("num_image_tokens", TOKEN),
    "do_lower_case": Only((False,)),
    "remove_space": Only((False,)),
    "clean_up_tokenization_spaces": Ignored("this family's original decodes without it"),
    "bos_token": Only(("<sop>",)),
    "eos_token": Only(("<eop>", "</s>")),  # the first releases' name, whose answers end with <eop> too
    "end_token": Only(("</s>",)),
    "mask_token": Only(("[MASK]",)),
    "gmask_token": Only(("[gMASK]",)),
    "pad_token": Only(("<pad>",)),
    "unk_token": Only(("<unk>",)),
}
RULES: Mapping[str, Rules] = {
    "chatglm": _TWO_ROWS,
    "chatglm2": _GROUPED,
    "chatglm3": {**_GROUPED, "encode_special_tokens": Only((False,))},
}


def check_files(tokenizer: Tokenizer) -> None:
    """Raise `InputError` where the files beside a tokenizer ask for other ids or texts than its own."""
    # transformers writes a token as its text, or as an object with the text as its content.
    said = {
        key: _content(value) if key.endswith("_token") else value for key, value in tokenizer.config.items()
    }
    read(RULES[tokenizer.family], said, CONFIG_FILE)
    for source, token, index in _added(tokenizer):
        known = tokenizer.special_tokens.get(token, tokenizer.sp_model.piece_to_id(token))
        unknown = token not in tokenizer.special_tokens and known == tokenizer.sp_model.unk_id() != index
        if unknown or index not in (None, known):
            place = "" if index is None else f" as {index}"
            raise InputError(
                f"{source} adds the token {token!r}{place}: texts that hold it would get other ids; only the "
                f"special tokens of {tokenizer.family} are supported, each under its own id"
            )


def _added(tokenizer: Tokenizer) -> Iterator[tuple[str, str, int | None]]:
    """(file, token, its id or None) of each token that the files add."""
    decoder = tokenizer.config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict) or not all(map(str.isdecimal, decoder)):
        raise InputError(
            f"{CONFIG_FILE} says added_tokens_decoder = {decoder!r}: expected ids and their tokens"
        )
    for index, value in decoder.items():
        yield CONFIG_FILE, _content(value), int(index)
    for value in tokenizer.config.get("additional_special_tokens") or ():
        yield CONFIG_FILE, _content(value), None
    path = tokenizer.model_file.with_name("added_tokens.json")
    if path.is_file():
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is not valid JSON ({error}): mend it or download it again") from error
        for token, index in values.items() if isinstance(values, dict) else ():
            yield path.name, token, index


def _content(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value
