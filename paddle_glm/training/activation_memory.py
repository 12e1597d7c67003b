"""Bytes of activations in one training step: tensors saved for backward, and temporaries at the peak.

Saved tensors were counted operator by operator with `paddle.autograd.saved_tensors_hooks`; a test repeats
it. Matmuls save their factors (with a frozen weight, the weight alone), softmax its output, activation
functions their input; additions, copies and reshapes save nothing. Those are Paddle's own operators; the
native ones on CPUs (`kernels.training`) save less. `c` is the itemsize of matmuls (2 in half precision), `s`
that of the residual stream (2 at O2); norms and softmax are float32. Each family
describes its blocks as `BlockActivations`. A block of ChatGLM2 saves per token:

    norms         2 x (4 hidden + 4), and 4 hidden for each trained norm weight; at O2 2 x (2 hidden + 4)
    linear inputs c x (hidden + queries + hidden + ffn), for layers that are trained or have an adapter
    rotary        s x (queries + keys) / 2, the rotated channels; nothing at O2
    attention     c x queries + c x (keys + values) x key length / tokens, and below 512 tokens in float32
                  4 x heads x key length; in half precision 4 x heads, and c x queries of an output that no
                  linear layer saves
    SwiGLU        c x 2 ffn

Tensor parallelism shards all but the norms and the inputs of size `hidden`, which sequence parallelism shares
out by tokens. Half precision is derived, not measured: Paddle has no half kernels for CPU. It is that of GPUs
with fused attention (compute capability 8.0).
"""

from dataclasses import dataclass

from paddle_glm.config import ModelConfig
from paddle_glm.layers.attention import BLOCKWISE_TOKENS
from paddle_glm.layers.blockwise_attention import BLOCK_SCORES
from paddle_glm.layers.recompute import CORE_ATTENTION, FULL
from paddle_glm.models.family import BlockActivations, family_of
from paddle_glm.parallel.lm_head import chunk_rows
from paddle_glm.peft.lora_config import LoraConfig


@dataclass(frozen=True)
class MicroBatchSpec:
    """A micro-batch on one rank.

    batch_size, seq_length: its shape, in tokens. degree: of tensor parallelism.
    compute_itemsize, residual_itemsize: bytes per element of matmuls and of the residual stream.
    full_finetuning: all weights are trained; otherwise `lora`, or the prefix that `config` describes.
    weight_copy_bytes: copies of weights that a block saves (half copies of float32 weights, replicated rows).
    sequence_parallel: norms, dropout and residuals are of a slice of the tokens.
    recompute_granularity: what `recompute` computes again (`layers.recompute`).
    head_gradient_bytes, block_gradient_bytes: gradient of the head, and the largest one of a block, before
        they are added to the accumulated ones.
    """

    config: ModelConfig
    batch_size: int
    seq_length: int
    degree: int
    compute_itemsize: int
    residual_itemsize: int
    full_finetuning: bool
    lora: LoraConfig | None
    recompute: bool
    weight_copy_bytes: int = 0
    head_gradient_bytes: int = 0
    block_gradient_bytes: int = 0
    sequence_parallel: bool = False
    recompute_granularity: str = FULL

    @property
    def has_fused_attention(self) -> bool:
        return self.compute_itemsize == 2

    @property
    def holds_scores(self) -> bool:
        """Whether attention holds all scores of a block at once."""
        return not self.has_fused_attention and self.seq_length < BLOCKWISE_TOKENS

    @property
    def scores(self) -> int:
        return self.batch_size * self.num_heads * self.seq_length * self.kv_length

    @property
    def block(self) -> BlockActivations:
        return family_of(self.config).block_activations

    @property
    def kv_length(self) -> int:
        """Tokens that attention sees, with the prefix."""
        return self.seq_length + (self.config.pre_seq_len or 0)

    @property
    def num_heads(self) -> int:
        return self.config.num_attention_heads // self.degree

    @property
    def query_size(self) -> int:
        return self.num_heads * self.config.head_dim

    @property
    def num_kv_heads(self) -> int:
        """Key/value heads on this rank, at least one."""
        return max(self.config.num_key_value_heads // self.degree, 1)

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.config.head_dim

    @property
    def ffn_size(self) -> int:
        return self.config.ffn_hidden_size // self.degree

    @property
    def local_vocab_size(self) -> int:
        return -(-self.config.vocab_size // self.degree)

    @property
    def tokens(self) -> int:
        return self.batch_size * self.seq_length

    @property
    def slices(self) -> int:
        """Ranks over which the tokens are shared out between the sharded layers."""
        return self.degree if self.sequence_parallel else 1

    @property
    def tokens_per_chunk(self) -> int:
        """Tokens whose logits exist at once. Runs in float32 are taken to be on a CPU."""
        return chunk_rows(self.tokens, self.local_vocab_size, on_cpu=self.compute_itemsize == 4)


def activation_bytes(step: MicroBatchSpec) -> int:
    """Peak bytes of activations: at the loss, or in the backward pass of a block."""
    config = step.config
    block = saved_block_bytes(step)
    if step.recompute:
        # What all blocks keep, and what one of them computes again.
        kept = config.num_layers * kept_block_bytes(step)
        again = block if step.recompute_granularity == FULL else block - kept_block_bytes(step)
        working = again + _transient_bytes(step)
    else:
        kept = saved_activation_bytes(step)
        working = _transient_bytes(step)
    return kept + _shared_across_blocks_bytes(step) + max(_loss_peak_bytes(step), working)


def saved_activation_bytes(step: MicroBatchSpec) -> int:
    """Bytes saved by all blocks without recomputation; less by the first if nothing below it is trained."""
    batch = step.batch_size * step.seq_length
    spared = 0 if step.full_finetuning else _norm_saved_bytes(step)
    if not step.full_finetuning and step.lora is None:
        spared += _rotary_saved_bytes(step)  # a prefix joins after the first layer's rotation
    return step.config.num_layers * saved_block_bytes(step) - batch * spared


def saved_block_bytes(step: MicroBatchSpec) -> int:
    """Bytes that one block saves for backward."""
    config, batch = step.config, step.batch_size * step.seq_length
    hidden = config.hidden_size // step.slices
    sizes = (hidden, step.query_size, hidden, step.ffn_size)
    linear = sum(
        _linear_saved_bytes(step, name, size) for name, size in zip(_linear_names(config), sizes, strict=True)
    )
    activation = step.compute_itemsize * step.block.ffn_inputs * step.ffn_size
    dropout = 2 * hidden if config.hidden_dropout else 0
    per_token = 2 * _norm_saved_bytes(step) + linear + _rotary_saved_bytes(step) + activation + dropout
    return batch * per_token + _attention_saved_bytes(step) + step.weight_copy_bytes


def kept_block_bytes(step: MicroBatchSpec) -> int:
    """Bytes that one block keeps if it, its attention or the core of that is recomputed."""
    config, width, hidden = step.config, step.compute_itemsize, step.config.hidden_size // step.slices
    if step.recompute_granularity == FULL:
        return step.tokens * step.residual_itemsize * hidden
    core = step.tokens * _rotary_saved_bytes(step) + _attention_saved_bytes(step)
    if step.recompute_granularity == CORE_ATTENTION:
        fused = step.tokens * width * (step.query_size + 2 * step.kv_size)
        return saved_block_bytes(step) - core + fused
    first, second, *_ = _linear_names(config)
    products = _linear_saved_bytes(step, first, hidden) + _linear_saved_bytes(step, second, step.query_size)
    return saved_block_bytes(step) - core + step.tokens * (width * hidden - products)


def saved_head_bytes(step: MicroBatchSpec) -> int:
    """Bytes saved by the final norm, the head and the loss."""
    return _head_input_bytes(step) + (4 * step.tokens * step.local_vocab_size if not _is_chunked(step) else 0)


def _is_chunked(step: MicroBatchSpec) -> bool:
    return step.tokens_per_chunk < step.tokens


def _head_input_bytes(step: MicroBatchSpec) -> int:
    """Bytes saved by the final norm, and the head's input where it is needed again."""
    kept = step.full_finetuning or _is_chunked(step)
    hidden = step.compute_itemsize * step.config.hidden_size if kept else 0
    return step.tokens * (_norm_saved_bytes(step) + hidden)


def _linear_names(config: ModelConfig) -> tuple[str, ...]:
    """Linear layers of a block in the order of their inputs: hidden, queries, hidden, ffn."""
    block = family_of(config).block_activations
    return tuple(f"{block.blocks}.0.{name}" for name in block.linear_modules)


def _norm_saved_bytes(step: MicroBatchSpec) -> int:
    """Bytes per token that a norm saves: float32 input, statistics, and the factor of a trained weight.

    The GPUs' fused RMSNorm saves its half precision input and one statistic (`kernels.gpu.rms_norm`).
    """
    if step.residual_itemsize == 2 and step.block.norm_statistics == 1:
        return 2 * step.config.hidden_size + 4
    factors = 2 if step.full_finetuning else 1
    return 4 * (factors * step.config.hidden_size + step.block.norm_statistics) // step.slices


def _linear_saved_bytes(step: MicroBatchSpec, module: str, size: int) -> int:
    """Bytes per token that a linear layer with `size` inputs saves."""
    if step.full_finetuning:
        return step.compute_itemsize * size
    if step.lora is None or not step.lora.matches(module):
        return 0
    mask = size if step.lora.dropout else 0
    return step.compute_itemsize * (size + step.lora.lora_rank_of(module)) + mask


def _rotary_saved_bytes(step: MicroBatchSpec) -> int:
    """Bytes per token that the rotary embedding saves: rotated channels of queries and keys.

    The GPUs' fused one, in half precision, saves its table alone (`kernels.gpu.rotate`).
    """
    if step.residual_itemsize == 2:
        return 0
    heads = step.num_heads + step.num_kv_heads
    return step.residual_itemsize * heads * family_of(step.config).rotated_channels(step.config)


def _attention_saved_bytes(step: MicroBatchSpec) -> int:
    pairs = 2 * step.kv_size * step.kv_length
    operands = step.batch_size * step.compute_itemsize * (step.query_size * step.seq_length + pairs)
    if step.has_fused_attention:
        kept = _linear_saved_bytes(step, _linear_names(step.config)[1], step.query_size) > 0
        output = 0 if kept else step.compute_itemsize * step.query_size
        return operands + step.tokens * (output + 4 * step.num_heads)
    if not step.holds_scores:
        return operands
    return operands + step.scores * (9 if step.config.attention_dropout else 4)


def _shared_across_blocks_bytes(step: MicroBatchSpec) -> int:
    """Bytes shared by all blocks: the mask (dense, or a few numbers per column), the rotary table's rows
    and the prefix.
    """
    config = step.config
    mask = 4 * step.batch_size * step.kv_length * (step.seq_length if step.holds_scores else 4)
    rotary = step.residual_itemsize * step.batch_size * step.seq_length * config.head_dim
    prefix = 0
    if config.pre_seq_len is not None:
        numbers = 2 * config.num_layers * config.num_key_value_heads * config.head_dim * config.pre_seq_len
        # float32, and for each row dropout's mask, a copy and its gradient.
        prefix = numbers * (4 + step.batch_size * (1 + 2 * step.compute_itemsize))
    return mask + rotary + prefix


def _loss_peak_bytes(step: MicroBatchSpec) -> int:
    """Peak bytes at the loss: logits, and float32 probabilities and gradients; of one chunk, if chunked."""
    width, vocab = step.compute_itemsize, step.local_vocab_size
    if _is_chunked(step):
        # Logits and their gradient, three float32 tensors between them; the gradient of the head's input.
        logits = step.tokens_per_chunk * (2 * width + 12) * vocab
        hidden = 2 * width * step.tokens * step.config.hidden_size
        return _head_input_bytes(step) + logits + hidden + step.head_gradient_bytes
    copies = width + 4 if step.degree == 1 else width + 12
    if width == 2 and step.degree == 1:
        copies += 4  # logits in float32
    at_loss = step.tokens * copies * vocab
    behind_it = step.tokens * width * vocab + step.head_gradient_bytes
    return _head_input_bytes(step) + max(at_loss, behind_it)


def _transient_bytes(step: MicroBatchSpec) -> int:
    """Peak bytes of temporaries in a block's backward, in the MLP or in attention.

    Attention has scores with and without mask at once, or the gradients of scores and of softmax: of all
    queries or of a block of them. The fused one has a float32 gradient of queries, and those of a key and a
    value for each head (flash_attn_grad_kernel.cu).
    """
    config, batch = step.config, step.batch_size * step.seq_length
    fused = step.block.ffn_inputs * step.ffn_size
    # Gradients of the activation's input and output, its recomputed output, the residual's gradient. An
    # adapter's output has a gradient of its own, beside that of the sum it is part of.
    wide, narrow = (2, 3) if step.lora is not None or fused > step.ffn_size else (1, 2)
    mlp = (
        batch * step.compute_itemsize * (wide * fused + narrow * config.hidden_size)
        + step.block_gradient_bytes
    )
    names = _linear_names(config)
    inputs = _linear_saved_bytes(step, names[2], config.hidden_size // step.slices) + _linear_saved_bytes(
        step, names[3], step.ffn_size
    )
    later = batch * (_norm_saved_bytes(step) + inputs + step.compute_itemsize * fused)  # saved by the MLP
    attention = 2 * batch * step.compute_itemsize * (step.query_size + 2 * step.kv_size)
    if step.has_fused_attention:
        attention += batch * (4 + 2 * step.compute_itemsize) * step.query_size
    else:
        attention += 2 * 4 * step.scores if step.holds_scores else 4 * 4 * min(BLOCK_SCORES, step.scores)
    return max(mlp, attention - later)
