"""ChatGLM-6B: post-residual blocks with two rotary positions per token; prompts are read in both directions.

Reproduces modeling_chatglm.py of THUDM/chatglm-6b; modules carry its names, so parameter names are those
of hub checkpoints.
"""

import math

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.families.chatglm import attention_output, ffn_input, ffn_output, query_key_value, sop
from paddle_glm.layers.activation import gelu_tanh
from paddle_glm.layers.attention import context_mask, grouped_query_attention, split_heads
from paddle_glm.layers.norm import LayerNorm
from paddle_glm.layers.rotary import angle_table, apply_rotary_parts, lookup_rows
from paddle_glm.models.base import CausalLM, KeyValue
from paddle_glm.parallel import SINGLE, TPGroup
from paddle_glm.parallel.layers import ColumnLinear, Head, RowLinear, Storage, TiedHead, VocabEmbedding
from paddle_glm.precision import compute_dtype
from paddle_glm.sharding import Vocab

# The original computes it from a default of 28 layers, however many there are.
RESIDUAL_SCALE = math.sqrt(2 * 28)


class SelfAttention(nn.Layer):
    """x [batch, tokens, hidden] -> the same shape, and this layer's keys and values."""

    def __init__(self, config: ModelConfig, group: TPGroup, storage: Storage, index: int) -> None:
        super().__init__()
        # Scores are kept smaller by the layer's number until they are float32, as in the original.
        self.group, self.head_dim, self.headroom = group, config.head_dim, index + 1.0
        self.query_key_value = ColumnLinear(
            config.hidden_size, query_key_value(config), group, storage, bias=True
        )
        self.dense = RowLinear(config.hidden_size, attention_output(config), group, storage, bias=True)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:
        query, key, value = split_heads(self.query_key_value(x), self.head_dim)
        query, key = apply_rotary_parts(query, *rotary), apply_rotary_parts(key, *rotary)
        if past is not None:
            key = paddle.concat([past[0], key], axis=2)
            value = paddle.concat([past[1], value], axis=2)
        mixed = grouped_query_attention(query, key, value, mask, self.group, headroom=self.headroom)
        return self.dense(mixed), (key, value)


class MLP(nn.Layer):
    """Two projections with GELU, by its tanh approximation, in between."""

    def __init__(self, config: ModelConfig, group: TPGroup, storage: Storage) -> None:
        super().__init__()
        self.dense_h_to_4h = ColumnLinear(config.hidden_size, ffn_input(config), group, storage, bias=True)
        self.dense_4h_to_h = RowLinear(config.hidden_size, ffn_output(config), group, storage, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(gelu_tanh(self.dense_h_to_4h(x)))


class Block(nn.Layer):
    """scale * norm(x) + attention(norm(x)), then the same with the MLP: the norm's output is the residual."""

    def __init__(self, config: ModelConfig, group: TPGroup, storage: Storage, index: int) -> None:
        super().__init__()
        self.input_layernorm = LayerNorm(config.hidden_size, config.layernorm_epsilon, storage.dtype)
        self.attention = SelfAttention(config, group, storage, index)
        self.post_attention_layernorm = LayerNorm(config.hidden_size, config.layernorm_epsilon, storage.dtype)
        self.mlp = MLP(config, group, storage)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:
        x = self.input_layernorm(x)
        attended, present = self.attention(x, rotary, mask, past)
        x = self.post_attention_layernorm(x * RESIDUAL_SCALE + attended)
        return x * RESIDUAL_SCALE + self.mlp(x), present


class Transformer(nn.Layer):
    def __init__(self, config: ModelConfig, group: TPGroup, storage: Storage) -> None:
        super().__init__()
        words = Vocab(config.vocab_size)
        self.word_embeddings = VocabEmbedding(config.hidden_size, words, group, storage)
        self.layers = nn.LayerList(
            [Block(config, group, storage, index) for index in range(config.num_layers)]
        )
        self.final_layernorm = LayerNorm(config.hidden_size, config.layernorm_epsilon, storage.dtype)


class ChatGLMModel(CausalLM):
    """See `CausalLM` for what calling it takes and gives; position_ids are [batch, 2, tokens].

    Tokens before `<sop>` are seen by all. They are those whose second position is 0; with one row of
    positions (`position_encoding_2d` false) those before the first `<sop>` of `input_ids`, so that such
    a prompt has to be given in one piece.
    """

    is_causal = False

    def __init__(self, config: ModelConfig, dtype: str = "float32", group: TPGroup = SINGLE) -> None:
        super().__init__(config, dtype, group)
        self.transformer = Transformer(config, group, self.storage)
        self.lm_head = TiedHead(self.transformer.word_embeddings)
        self.register_buffer("rotary_table", paddle.to_tensor(self.rotary_rows()), persistable=False)

    def rotary_rows(self) -> np.ndarray:
        rows = 2 if self.config.position_encoding_2d else 1
        sizes = frequencies(self.config.head_dim // rows)
        return angle_table(self.config.max_sequence_length, sizes, self.dtype)

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.transformer.word_embeddings(input_ids)

    def blocks(self) -> list[nn.Layer]:
        return list(self.transformer.layers)

    def position_embeddings(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        rows = position_ids if position_ids.ndim == 3 else position_ids.unsqueeze(1)
        return lookup_rows(self.rotary_table, rows, compute_dtype(self.stored_dtype))

    def attention_mask(self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if position_ids.ndim == 3:
            context = position_ids[:, 1] == 0
        else:
            ends = paddle.equal(input_ids, paddle.full_like(input_ids, sop(self.config)))
            context = ends.astype("int64").cumsum(axis=1) == 0
        return context_mask(attention_mask, context)

    def default_positions(self, input_ids: Tensor, attention_mask: Tensor, past: int) -> Tensor:
        if past:
            raise InputError("position_ids are needed behind cached tokens: family.step_inputs gives them")
        positions = self.family.positions(self.config, input_ids.numpy(), attention_mask.numpy())
        return paddle.to_tensor(positions)

    def final_norm(self, x: Tensor) -> Tensor:
        return self.transformer.final_layernorm(x)

    def head(self) -> Head:
        return self.lm_head


def frequencies(size: int) -> np.ndarray:
    """The rotary frequencies of `size` channels, float32 [size / 2], rounded to float16 as there."""
    exponent = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    return (1.0 / 10000.0**exponent).astype(np.float16).astype(np.float32)
