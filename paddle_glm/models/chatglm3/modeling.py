"""ChatGLM3: ChatGLM2 with another rotary table (modeling_chatglm.py of THUDM/chatglm3-6b)."""

from paddle_glm.array_types import Array
from paddle_glm.layers.rotary import rotary_table
from paddle_glm.models.chatglm2.modeling import ChatGLM2Model
from paddle_glm.models.chatglm2.positions import rotary_dim


class ChatGLM3Model(ChatGLM2Model):
    """`forward` is `CausalLM`'s, with position_ids [batch, tokens]."""

    def build_rotary_table(self) -> Array:
        """float32 [max_sequence_length, rotary_dim], never rounded; `rope_ratio` multiplies the base."""
        config = self.config
        return rotary_table(config.max_sequence_length, rotary_dim(config), base=10000.0 * config.rope_ratio)
