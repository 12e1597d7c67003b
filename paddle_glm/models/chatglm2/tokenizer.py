"""The tokenizer of ChatGLM2-6B (tokenization_chatglm.py of THUDM/chatglm2-6b)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from paddle_glm.chat_template import ChatTemplate
from paddle_glm.errors import InputError
from paddle_glm.key_rules import Ignored, Restricted, Rules
from paddle_glm.models.chatglm2 import FAMILY
from paddle_glm.models.chatglm2.template import CHATGLM2
from paddle_glm.tokenizers.base import Tokenizer, check_text
from paddle_glm.tokenizers.sentencepiece_settings import SentencePieceSettings
from paddle_glm.tokenizers.tokenizer_config_keys import COMMON_RULES

COMMAND_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")


class ChatGLM2Tokenizer(Tokenizer):
    """Ids are SentencePiece's pieces, then `command_tokens`. Padding is the id of the unknown piece."""

    vocab_file = FAMILY.vocab_file
    family = "chatglm2"
    template: ClassVar[ChatTemplate] = CHATGLM2
    hub_config: ClassVar[dict[str, Any]] = {
        "name_or_path": "THUDM/chatglm2-6b",
        "remove_space": False,
        "do_lower_case": False,
        "tokenizer_class": "ChatGLMTokenizer",
    }
    config_rules: ClassVar[Rules] = {
        **COMMON_RULES,
        "clean_up_tokenization_spaces": Restricted((False,)),
        "encode_special_tokens": Ignored("read by ChatGLM3 alone"),
        "do_lower_case": Ignored("not read by this family's original"),
        "remove_space": Ignored("not read by this family's original"),
        **dict.fromkeys(
            ("bos_token", "eos_token", "pad_token", "unk_token"),
            Ignored("the original keeps its own token, whatever the file says"),
        ),
    }
    command_tokens: ClassVar[tuple[str, ...]] = COMMAND_TOKENS
    sentencepiece = SentencePieceSettings(normalization="identity", keep_whitespace=True)

    def __init__(self, model_file: str | Path, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(model_file, config)
        self._first_command_id: int = self.sp_model.get_piece_size()
        self._control_ids = frozenset((self.bos_token_id, self.eos_token_id, self.pad_token_id))
        if min(self._control_ids) < 0:
            raise InputError(
                f"{self.model_file} has no beginning, end or unknown piece: "
                "train it with bos_id, eos_id and unk_id"
            )

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        commands = {token: self._first_command_id + index for index, token in enumerate(self.command_tokens)}
        return {
            **commands,
            "<bos>": self.bos_token_id,
            "<eos>": self.eos_token_id,
            "<pad>": self.pad_token_id,
        }

    @property
    def vocab_size(self) -> int:
        return self._first_command_id + len(self.command_tokens)

    @property
    def bos_token_id(self) -> int:
        return self.sp_model.bos_id()

    @property
    def eos_token_id(self) -> int:
        return self.sp_model.eos_id()

    @property
    def pad_token_id(self) -> int:
        return self.sp_model.unk_id()

    @property
    def unk_token_id(self) -> None:
        """None, as in the original: unknown characters become byte pieces."""

    def text_to_pieces(self, text: str) -> list[str]:
        pieces: list[str] = self.sp_model.encode(text, out_type=str)
        return pieces

    def text_to_ids(self, text: str, encode_special_tokens: bool = False) -> list[int]:
        # SentencePiece's own ids: three times as fast as by pieces, and the text "sop" never becomes the
        # special token, even if a trained model has such a piece.
        if encode_special_tokens:
            return super().text_to_ids(text, encode_special_tokens)
        check_text(text)
        ids: list[int] = self.sp_model.encode(text)
        return ids

    def convert_token_to_id(self, token: str) -> int:
        index = self.special_tokens.get(token)
        return self.sp_model.piece_to_id(token) if index is None else index

    def convert_id_to_token(self, index: int) -> str:
        """A piece, or "" for special tokens and for the ids that pad the model's vocabulary."""
        if index in self._control_ids or not 0 <= index < self._first_command_id:
            return ""
        return self.sp_model.id_to_piece(index)

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        text: str = self.sp_model.decode_pieces(list(tokens))
        return text

    def tokenizer_spec(self) -> dict[str, Any]:
        special = sorted(set(self.special_tokens.values()))
        return {
            "pieces": self._first_command_id,
            "offset": 0,
            "spelled": [],
            "texts": [(index, self.convert_id_to_token(index)) for index in special],
            "below_offset": "",
        }

    def build_inputs_with_special_tokens(
        self, first: list[int], second: list[int] | None = None
    ) -> list[int]:
        """`[gMASK] sop first`, or `[gMASK] sop first second <eos>`."""
        ids = [self.get_command("[gMASK]"), self.get_command("sop"), *first]
        return ids if second is None else [*ids, *second, self.eos_token_id]
