"""Bytes of activations in one training step, by formula: what autograd keeps, and what is there beside it.

What is kept was counted with `paddle.autograd.saved_tensors_hooks`, operator by operator (a test repeats
the count): an operator keeps the factors of a product, the output of softmax, the input of an activation; a
sum, a copy and a reshape keep nothing; a product with a frozen weight keeps the weight alone. Counts are per
token; `c` is the size of a number in products (2 in half precision), `s` in the residual stream (2 at O2),
norms and softmax are float32. Of one block of ChatGLM2 that is:

    norms         2 x (4 hidden + 4), and 4 hidden each where their weights are trained
    linear inputs c x (hidden + queries + hidden + ffn), of those that are trained or have an adapter
    rotary        s x (queries + keys) / 2, the channels that turn
    attention     c x queries + c x (keys + values) x keys seen / tokens + (4, in half 6) x heads x keys seen
    SwiGLU        c x 2 ffn

Tensor parallelism cuts all but the norms and the inputs `hidden`. Half precision was derived, not measured:
Paddle has no such kernels on CPUs.
"""

from dataclasses import dataclass

from paddle_glm.config import ModelConfig
from paddle_glm.models.family import BlockActivations, family_of
from paddle_glm.peft.lora_config import LoraConfig


@dataclass(frozen=True)
class MicroBatchSpec:
    """One batch of one process.

    batch_size, seq_length: the batch's shape. degree: of tensor parallelism. compute_itemsize,
    residual_itemsize: bytes of a number in
    products and between blocks. full_finetuning: the model's own weights are trained; else `lora` beside
    them,
    or the prefix that `config` names. weight_copy_bytes: bytes of copies of weights that one block keeps
    (half
    ones of float32 weights, rows that several processes hold). head_gradient_bytes, block_gradient_bytes:
    bytes of the
    head's gradient and of the largest one in a block, which stand beside the sums that they are added to.
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

    @property
    def block(self) -> BlockActivations:
        return family_of(self.config).block_activations

    @property
    def kv_length(self) -> int:
        """Positions that a token may see: the prefix too."""
        return self.seq_length + (self.config.pre_seq_len or 0)

    @property
    def num_heads(self) -> int:
        return self.config.num_attention_heads // self.degree

    @property
    def query_size(self) -> int:
        return self.num_heads * self.config.head_dim

    @property
    def num_kv_heads(self) -> int:
        """Key/value heads on this process: at least one."""
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


def activation_bytes(step: MicroBatchSpec) -> int:
    """The most bytes of activations at once: at the loss, or in the block whose backward runs."""
    config = step.config
    block, batch = saved_block_bytes(step), step.batch_size * step.seq_length
    if step.recompute:
        # Inputs of blocks, and one block at a time that is computed again.
        kept = config.num_layers * batch * config.hidden_size * step.residual_itemsize
        working = block + _transient_bytes(step)
    else:
        kept = saved_activation_bytes(step)
        working = _transient_bytes(step)
    return kept + _shared_across_blocks_bytes(step) + max(_loss_peak_bytes(step), working)


def saved_activation_bytes(step: MicroBatchSpec) -> int:
    """What all blocks keep without recomputation; the first one less, where nothing below it is trained."""
    batch = step.batch_size * step.seq_length
    spared = 0 if step.full_finetuning else _norm_saved_bytes(step)
    if not step.full_finetuning and step.lora is None:
        spared += _rotary_saved_bytes(step)  # a prefix is behind the first layer's queries and keys
    return step.config.num_layers * saved_block_bytes(step) - batch * spared


def saved_block_bytes(step: MicroBatchSpec) -> int:
    """What one block keeps for its backward."""
    config, batch = step.config, step.batch_size * step.seq_length
    sizes = (config.hidden_size, step.query_size, config.hidden_size, step.ffn_size)
    linear = sum(
        _linear_saved_bytes(step, name, size) for name, size in zip(_linear_names(config), sizes, strict=True)
    )
    activation = step.compute_itemsize * step.block.ffn_inputs * step.ffn_size
    dropout = 2 * config.hidden_size if config.hidden_dropout else 0
    per_token = 2 * _norm_saved_bytes(step) + linear + _rotary_saved_bytes(step) + activation + dropout
    return batch * per_token + _attention_saved_bytes(step) + step.weight_copy_bytes


def saved_head_bytes(step: MicroBatchSpec) -> int:
    """The final norm, the head's input and the loss's probabilities."""
    hidden = step.config.hidden_size
    per_token = (
        _norm_saved_bytes(step)
        + (step.compute_itemsize * hidden if step.full_finetuning else 0)
        + 4 * step.local_vocab_size
    )
    return step.batch_size * step.seq_length * per_token


def _linear_names(config: ModelConfig) -> tuple[str, ...]:
    """Linear layers of a block in the order of their inputs: hidden, queries, hidden, ffn."""
    block = family_of(config).block_activations
    return tuple(f"{block.blocks}.0.{name}" for name in block.linear_modules)


def _norm_saved_bytes(step: MicroBatchSpec) -> int:
    """Bytes that a norm keeps of a token: its input, in float32, and what its weight is multiplied with."""
    factors = 2 if step.full_finetuning else 1
    return 4 * (factors * step.config.hidden_size + step.block.norm_statistics)


def _linear_saved_bytes(step: MicroBatchSpec, module: str, size: int) -> int:
    """Bytes that a linear layer keeps of a token's input of `size` numbers."""
    if step.full_finetuning:
        return step.compute_itemsize * size
    if step.lora is None or not step.lora.matches(module):
        return 0
    mask = size if step.lora.dropout else 0
    return step.compute_itemsize * (size + step.lora.lora_rank_of(module)) + mask


def _rotary_saved_bytes(step: MicroBatchSpec) -> int:
    """Bytes that the rotation keeps of a token: the rotated channels of its queries and keys."""
    heads = step.num_heads + step.num_kv_heads
    return step.residual_itemsize * heads * family_of(step.config).rotated_channels(step.config)


def _attention_saved_bytes(step: MicroBatchSpec) -> int:
    scores = step.batch_size * step.num_heads * step.seq_length * step.kv_length
    weights = scores * (
        4 if step.compute_itemsize == 4 else 6
    )  # in half precision those that values are mixed with
    if step.config.attention_dropout:
        weights += scores * (5 if step.compute_itemsize == 4 else 1)
    pairs = 2 * step.kv_size * step.kv_length
    return weights + step.batch_size * step.compute_itemsize * (step.query_size * step.seq_length + pairs)


def _shared_across_blocks_bytes(step: MicroBatchSpec) -> int:
    """What blocks have in common: the additive mask, the rotary table's rows, the prefix itself."""
    config = step.config
    mask = 4 * step.batch_size * step.seq_length * step.kv_length
    rotary = step.residual_itemsize * step.batch_size * step.seq_length * config.head_dim
    prefix = 0
    if config.pre_seq_len is not None:
        numbers = 2 * config.num_layers * config.num_key_value_heads * config.head_dim * config.pre_seq_len
        # Float32 as they are made; for each row with dropout's mask, their copies and those' gradients.
        prefix = numbers * (4 + step.batch_size * (1 + 2 * step.compute_itemsize))
    return mask + rotary + prefix


def _loss_peak_bytes(step: MicroBatchSpec) -> int:
    """Logits, probabilities and their gradient: as many as there are at once, in float32 but for logits."""
    copies = step.compute_itemsize + 4 if step.degree == 1 else step.compute_itemsize + 12
    if step.compute_itemsize == 2 and step.degree == 1:
        copies += 4  # logits in float32
    batch = step.batch_size * step.seq_length
    at_loss = batch * copies * step.local_vocab_size
    behind_it = batch * step.compute_itemsize * step.local_vocab_size + step.head_gradient_bytes
    return saved_head_bytes(step) - 4 * batch * step.local_vocab_size + max(at_loss, behind_it)


def _transient_bytes(step: MicroBatchSpec) -> int:
    """What is there beside what a block keeps, at the widest place: in its MLP's backward, or in attention,
    where scores stand beside those with a mask, or their gradients beside the weights'.
    """
    config, batch = step.config, step.batch_size * step.seq_length
    fused = step.block.ffn_inputs * step.ffn_size
    # Gradients of both ends of SwiGLU, its output again, and the residual's. An adapter's output has a
    # gradient of its own, beside that of the sum which it is part of.
    wide, narrow = (2, 3) if step.lora is not None or fused > step.ffn_size else (1, 2)
    mlp = (
        batch * step.compute_itemsize * (wide * fused + narrow * config.hidden_size)
        + step.block_gradient_bytes
    )
    names = _linear_names(config)
    inputs = _linear_saved_bytes(step, names[2], config.hidden_size) + _linear_saved_bytes(
        step, names[3], step.ffn_size
    )
    later = batch * (_norm_saved_bytes(step) + inputs + step.compute_itemsize * fused)  # what the MLP keeps
    scores = 2 * 4 * step.batch_size * step.num_heads * step.seq_length * step.kv_length
    attention = scores + 2 * batch * step.compute_itemsize * (step.query_size + 2 * step.kv_size)
    return max(mlp, attention - later)
