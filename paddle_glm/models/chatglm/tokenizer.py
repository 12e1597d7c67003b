"""The tokenizer of ChatGLM-6B (tokenization_chatglm.py of THUDM/chatglm-6b)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from paddle_glm.chat_template import ChatTemplate
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.key_rules import TOKEN_ID, Ignored, Mapped, Restricted, Rules
from paddle_glm.models.chatglm import FAMILY
from paddle_glm.models.chatglm.template import CHATGLM
from paddle_glm.tokenizers.base import Tokenizer, check_text
from paddle_glm.tokenizers.files import read_config
from paddle_glm.tokenizers.sentencepiece_settings import SentencePieceSettings
from paddle_glm.tokenizers.tokenizer_config_keys import COMMON_RULES

COMMAND_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
LINE_BREAK, TAB = "<n>", "<|tab|>"
MAX_BLANK_LENGTH = 80  # runs of 2 to 80 blanks have a piece each
IMAGE_KEY = "num_image_tokens"

_RUN = re.compile(f" {{2,{MAX_BLANK_LENGTH}}}")
_BLANK = re.compile(r"<\|blank_(\d+)\|>")
_IMAGE = re.compile(r"<image_(\d+)>")


def blank_token(length: int) -> str:
    return f"<|blank_{length}|>"


class ChatGLMTokenizer(Tokenizer):
    """Ids are the image tokens (20000 in the first releases, none later), then SentencePiece's pieces.

    Special tokens are control pieces of the SentencePiece model; line breaks, tabs and runs of blanks are
    pieces, too. Its normalisation turns full-width punctuation into ASCII.
    """

    vocab_file = FAMILY.vocab_file
    family = "chatglm"
    template: ClassVar[ChatTemplate] = CHATGLM
    hub_config: ClassVar[dict[str, Any]] = {
        "name_or_path": "THUDM/chatglm-6b",
        "bos_token": "<sop>",
        "eos_token": "<eop>",
        "end_token": "</s>",
        "gmask_token": "[gMASK]",
        "mask_token": "[MASK]",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "remove_space": False,
        "do_lower_case": False,
        "tokenizer_class": "ChatGLMTokenizer",
    }
    config_rules: ClassVar[Rules] = {
        **COMMON_RULES,
        IMAGE_KEY: Mapped(IMAGE_KEY, TOKEN_ID),
        "do_lower_case": Restricted((False,)),
        "remove_space": Restricted((False,)),
        "clean_up_tokenization_spaces": Ignored("this family's original decodes without it"),
        "bos_token": Restricted(("<sop>",)),
        # "</s>" is what the first releases call it; their answers end with <eop> too.
        "eos_token": Restricted(("<eop>", "</s>")),
        "end_token": Restricted(("</s>",)),
        "mask_token": Restricted(("[MASK]",)),
        "gmask_token": Restricted(("[gMASK]",)),
        "pad_token": Restricted(("<pad>",)),
        "unk_token": Restricted(("<unk>",)),
    }
    command_tokens: ClassVar[tuple[str, ...]] = COMMAND_TOKENS
    sentencepiece = SentencePieceSettings(
        normalization="nmt_nfkc",
        keep_whitespace=False,
        pad_id=3,
        symbols=(LINE_BREAK, TAB, *(blank_token(length) for length in range(2, MAX_BLANK_LENGTH + 1))),
        controls=COMMAND_TOKENS,
    )

    def __init__(self, model_file: str | Path, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(model_file, {IMAGE_KEY: 0, **(config or {})})
        self.num_image_tokens: int = self.config[IMAGE_KEY]
        if not isinstance(self.num_image_tokens, int) or self.num_image_tokens < 0:
            raise InputError(f"{IMAGE_KEY} is {self.num_image_tokens!r}: expected 0 or 20000")
        unknown = self.sp_model.unk_id()
        needed = (*COMMAND_TOKENS, LINE_BREAK, "<pad>")
        lacking = [token for token in needed if self.sp_model.piece_to_id(token) == unknown]
        if lacking:
            raise InputError(
                f"{self.model_file} lacks the pieces {', '.join(lacking)}: "
                "it is not the SentencePiece model of ChatGLM-6B"
            )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ChatGLMTokenizer:
        """As `Tokenizer.from_pretrained`; the number of image tokens follows from `config.json` if not given.

        Raises `InputError` if `config.json` and the tokenizer disagree on the id of `<sop>`.
        """
        path = Path(folder)
        model_file = path / cls.vocab_file if path.is_dir() else path
        tokenizer_config = read_config(model_file.parent)
        tokenizer = cls(model_file, tokenizer_config)
        if not (model_file.parent / "config.json").is_file():
            return tokenizer
        model = ModelConfig.from_pretrained(model_file.parent, cls.family)
        assert model.bos_token_id is not None  # required by SCHEMA
        images = model.bos_token_id - tokenizer.bos_token_id + tokenizer.num_image_tokens
        if images < 0 or (images != tokenizer.num_image_tokens and IMAGE_KEY in tokenizer_config):
            raise InputError(
                f"{model_file.parent}: config.json says that <sop> is {model.bos_token_id}, the tokenizer "
                f"{tokenizer.bos_token_id}: they do not belong together"
            )
        if images != tokenizer.num_image_tokens:
            tokenizer = cls(model_file, {**tokenizer.config, IMAGE_KEY: images})
        tokenizer.model_config = model
        return tokenizer

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        names = (*COMMAND_TOKENS, "<pad>", "<unk>", "<s>", "</s>")
        return {name: self.convert_token_to_id(name) for name in names}

    @property
    def vocab_size(self) -> int:
        return self.num_image_tokens + self.sp_model.get_piece_size()

    @property
    def bos_token_id(self) -> int:
        return self.get_command("<sop>")

    @property
    def eos_token_id(self) -> int:
        return self.get_command("<eop>")

    @property
    def end_token_id(self) -> int:
        return self.get_command("</s>")

    @property
    def pad_token_id(self) -> int:
        return self.get_command("<pad>")

    @property
    def unk_token_id(self) -> int:
        return self.get_command("<unk>")

    @property
    def mask_token_id(self) -> int:
        return self.get_command("[MASK]")

    @property
    def gmask_token_id(self) -> int:
        return self.get_command("[gMASK]")

    def text_to_pieces(self, text: str) -> list[str]:
        pieces: list[str] = self.sp_model.encode(_encode_whitespace(text), out_type=str)
        return pieces

    def text_to_ids(self, text: str, encode_special_tokens: bool = False) -> list[int]:
        if encode_special_tokens:
            return super().text_to_ids(text, encode_special_tokens)
        check_text(text)
        return [self.num_image_tokens + index for index in self.sp_model.encode(_encode_whitespace(text))]

    def convert_token_to_id(self, token: str) -> int:
        image = _IMAGE.fullmatch(token)
        return int(image[1]) if image else self.num_image_tokens + self.sp_model.piece_to_id(token)

    def convert_id_to_token(self, index: int) -> str:
        """A piece, `<image_N>`, or "" for the ids that pad the model's vocabulary."""
        if not 0 <= index < self.vocab_size:
            return ""
        piece = index - self.num_image_tokens
        return f"<image_{index}>" if piece < 0 else self.sp_model.id_to_piece(piece)

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Text of the pieces; control pieces have none."""
        text = self.sp_model.decode_pieces(list(tokens)).replace(LINE_BREAK, "\n").replace(TAB, "\t")
        return _BLANK.sub(_decode_blank, text)

    def tokenizer_spec(self) -> dict[str, Any]:
        runs = [(" " * length, blank_token(length)) for length in range(MAX_BLANK_LENGTH, 1, -1)]
        return {
            "pieces": self.sp_model.get_piece_size(),
            "offset": self.num_image_tokens,
            "spelled": [("\n", LINE_BREAK), ("\t", TAB), *runs],
            "texts": [],
            "below_offset": "<image_{index}>",
        }

    def build_inputs_with_special_tokens(
        self, first: list[int], second: list[int] | None = None
    ) -> list[int]:
        """`first [gMASK] <sop>`, or `first [gMASK] <sop> second <eop>`."""
        ids = [*first, self.gmask_token_id, self.bos_token_id]
        return ids if second is None else [*ids, *second, self.eos_token_id]

    @cached_property
    def model_config(self) -> ModelConfig:
        """`config.json` beside the tokenizer; without one, the final release's with this tokenizer's ids."""
        return ModelConfig(
            family=self.family,
            position_encoding_2d=True,
            bos_token_id=self.bos_token_id,
            mask_token_id=self.mask_token_id,
            gmask_token_id=self.gmask_token_id,
        )


def _encode_whitespace(text: str) -> str:
    """Replace line breaks, tabs and runs of blanks by the pieces that stand for them."""
    text = text.replace("\n", LINE_BREAK).replace("\t", TAB)
    return _RUN.sub(lambda run: blank_token(len(run[0])), text)


def _decode_blank(match: re.Match[str]) -> str:
    length = int(match[1])
    return " " * length if 2 <= length <= MAX_BLANK_LENGTH else match[0]
