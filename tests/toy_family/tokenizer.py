"""The tokenizer of the toy family: ChatGLM2's with other special tokens, in a file of another name."""

from typing import Any, ClassVar

from paddle_glm.chat_template import ChatTemplate
from paddle_glm.key_rules import Ignored, Rules
from paddle_glm.models.chatglm2.tokenizer import ChatGLM2Tokenizer
from paddle_glm.tokenizers.tokenizer_config_keys import COMMON_RULES
from tests.toy_family import FAMILY
from tests.toy_family.template import TEMPLATE


class ToyTokenizer(ChatGLM2Tokenizer):
    vocab_file = FAMILY.vocab_file
    family = "toy"
    template: ClassVar[ChatTemplate] = TEMPLATE
    hub_config: ClassVar[dict[str, Any]] = {"tokenizer_class": "ToyTokenizer"}
    config_rules: ClassVar[Rules] = {**COMMON_RULES, "toy_note": Ignored("a note")}
    command_tokens: ClassVar[tuple[str, ...]] = ("<start>", "<answer>", "<end>")

    @property
    def eos_token_id(self) -> int:
        return self._first_command_id + self.command_tokens.index("<end>")

    def build_inputs_with_special_tokens(
        self, first: list[int], second: list[int] | None = None
    ) -> list[int]:
        ids = [self.get_command("<start>"), *first, self.get_command("<answer>")]
        return ids if second is None else [*ids, *second, self.eos_token_id]
