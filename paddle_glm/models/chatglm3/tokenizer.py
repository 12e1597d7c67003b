"""The tokenizer of ChatGLM3-6B (tokenization_chatglm.py of THUDM/chatglm3-6b)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from paddle_glm.chat_template import (
    ChatTemplate,
    Message,
    RoleTemplate,
    messages_from_history,
    render,
)
from paddle_glm.key_rules import Restricted, Rules
from paddle_glm.models.chatglm2.tokenizer import COMMAND_TOKENS, ChatGLM2Tokenizer
from paddle_glm.models.chatglm3.template import CHATGLM3
from paddle_glm.tokenizers.encoding import BatchEncoding, as_tensors

ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


class ChatGLM3Tokenizer(ChatGLM2Tokenizer):
    """ChatGLM2's with one more special token per role; special tokens keep their text when decoded."""

    family = "chatglm3"
    template: ClassVar[ChatTemplate] = CHATGLM3
    hub_config: ClassVar[dict[str, Any]] = {
        **ChatGLM2Tokenizer.hub_config,
        "name_or_path": "THUDM/chatglm3-6b",
    }
    config_rules: ClassVar[Rules] = {
        **ChatGLM2Tokenizer.config_rules,
        "encode_special_tokens": Restricted((False,)),
    }
    command_tokens = COMMAND_TOKENS + ROLE_TOKENS

    def convert_id_to_token(self, index: int) -> str:
        command = index - self._first_command_id
        return (
            self.command_tokens[command]
            if 0 <= command < len(self.command_tokens)
            else super().convert_id_to_token(index)
        )

    def build_single_message(self, role: str, metadata: str, message: str) -> list[int]:
        """Ids of the role token, of `metadata` and a line break, and of the message."""
        assert isinstance(self.template, RoleTemplate)
        return self.template.message_ids(self, {"role": role, "metadata": metadata, "content": message})

    def build_chat_input(
        self,
        query: str,
        history: Sequence[Message] | None = None,
        role: str = "user",
        return_tensors: str | None = "np",
    ) -> BatchEncoding:
        """Inputs of the prompt that asks `query` in `role` after `history`, a batch of one.

        history: messages, or (question, answer) pairs. return_tensors: as in `Tokenizer.__call__`.
        """
        ids = render(self.template, self, messages_from_history(query, history, role=role)).input_ids
        batch = BatchEncoding({name: [values] for name, values in self.sequence_inputs(ids).items()})
        return batch if return_tensors is None else as_tensors(batch, return_tensors)
