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
from paddle_glm.peft.lora_config import LoraConfig


@dataclass(frozen=True)
class Step:
    """One batch of one process.

    rows, tokens: the batch's shape. degree: of tensor parallelism. width, stream: bytes of a number in
    products and between blocks. trains_all: the model's own weights are trained; else `lora` beside them,
    or the prefix that `config` names. weight_copies: bytes of copies of weights that one block keeps (half
    ones of float32 weights, rows that several processes hold). head_gradient, block_gradient: bytes of the
    head's gradient and of the largest one in a block, which stand beside the sums that they are added to.
    """

    config: ModelConfig
    rows: int
    tokens: int
    degree: int
    width: int
    stream: int
    trains_all: bool
    lora: LoraConfig | None
    recompute: bool
    weight_copies: int = 0
    head_gradient: int = 0
    block_gradient: int = 0

    @property
    def keys(self) -> int:
        """Positions that a token may see: the prefix too."""
        return self.tokens + (self.config.pre_seq_len or 0)

    @property
    def heads(self) -> int:
        return self.config.num_attention_heads // self.degree

    @property
    def queries(self) -> int:
        return self.heads * self.config.head_dim

    @property
    def groups(self) -> int:
        """Key/value heads on this process: at least one."""
        return max(self.config.num_key_value_heads // self.degree, 1)

    @property
    def key_width(self) -> int:
        return self.groups * self.config.head_dim

    @property
    def ffn(self) -> int:
        return self.config.ffn_hidden_size // self.degree

    @property
    def vocabulary(self) -> int:
        return -(-self.config.vocab_size // self.degree)


def activation_bytes(step: Step) -> int:
    """The most bytes of activations at once: at the loss, or in the block whose backward runs."""
    config = step.config
    block, batch = block_bytes(step), step.rows * step.tokens
    if step.recompute:
        # Inputs of blocks, and one block at a time that is computed again.
        kept = config.num_layers * batch * config.hidden_size * step.stream
        working = block + _working_bytes(step)
    else:
        kept = kept_bytes(step)
        working = _working_bytes(step)
    return kept + _shared_bytes(step) + max(_loss_bytes(step), working)


def kept_bytes(step: Step) -> int:
    """What all blocks keep without recomputation; the first one less, where nothing below it is trained."""
    batch = step.rows * step.tokens
    spared = 0 if step.trains_all else _norm_width(step)
    if not step.trains_all and step.lora is None:
        spared += _rotary_width(step)  # a prefix is behind the first layer's queries and keys
    return step.config.num_layers * block_bytes(step) - batch * spared


def block_bytes(step: Step) -> int:
    """What one block keeps for its backward."""
    config, batch = step.config, step.rows * step.tokens
    sizes = (config.hidden_size, step.queries, config.hidden_size, step.ffn)
    linear = sum(_input_width(step, name, size) for name, size in zip(_modules(config), sizes, strict=True))
    # The one layer of ChatGLM-6B's MLP, or gate and up.
    activation = step.width * (step.ffn if config.family == "chatglm" else 2 * step.ffn)
    dropout = 2 * config.hidden_size if config.hidden_dropout else 0
    per_token = 2 * _norm_width(step) + linear + _rotary_width(step) + activation + dropout
    return batch * per_token + _attention_bytes(step) + step.weight_copies


def head_kept_bytes(step: Step) -> int:
    """The final norm, the head's input and the loss's probabilities."""
    hidden = step.config.hidden_size
    per_token = _norm_width(step) + (step.width * hidden if step.trains_all else 0) + 4 * step.vocabulary
    return step.rows * step.tokens * per_token


def _modules(config: ModelConfig) -> tuple[str, ...]:
    """Linear layers of a block in the order of their inputs: hidden, queries, hidden, ffn."""
    layer, attention = "transformer.encoder.layers.0", "self_attention"
    if config.family == "chatglm":
        layer, attention = "transformer.layers.0", "attention"
    names = (f"{attention}.query_key_value", f"{attention}.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    return tuple(f"{layer}.{name}" for name in names)


def _norm_width(step: Step) -> int:
    """Bytes that a norm keeps of a token: its input, in float32, and what its weight is multiplied with."""
    factors = 2 if step.trains_all else 1
    statistics = 2 if step.config.family == "chatglm" else 1
    return 4 * (factors * step.config.hidden_size + statistics)


def _input_width(step: Step, module: str, size: int) -> int:
    """Bytes that a linear layer keeps of a token's input of `size` numbers."""
    if step.trains_all:
        return step.width * size
    if step.lora is None or not step.lora.matches(module):
        return 0
    mask = size if step.lora.dropout else 0
    return step.width * (size + step.lora.rank_of(module)) + mask


def _rotary_width(step: Step) -> int:
    """Both halves of the channels that turn, of queries and keys: all of them, in ChatGLM2 half of them."""
    turning = step.queries + step.key_width
    return step.stream * (turning if step.config.family == "chatglm" else turning // 2)


def _attention_bytes(step: Step) -> int:
    scores = step.rows * step.heads * step.tokens * step.keys
    weights = scores * (4 if step.width == 4 else 6)  # in half precision those that values are mixed with
    if step.config.attention_dropout:
        weights += scores * (5 if step.width == 4 else 1)
    pairs = 2 * step.key_width * step.keys
    return weights + step.rows * step.width * (step.queries * step.tokens + pairs)


def _shared_bytes(step: Step) -> int:
    """What blocks have in common: the additive mask, the rotary table's rows, the prefix itself."""
    config = step.config
    mask = 4 * step.rows * step.tokens * step.keys
    rotary = step.stream * step.rows * step.tokens * config.head_dim
    prefix = 0
    if config.pre_seq_len is not None:
        numbers = 2 * config.num_layers * config.num_key_value_heads * config.head_dim * config.pre_seq_len
        # Float32 as they are made; for each row with dropout's mask, their copies and those' gradients.
        prefix = numbers * (4 + step.rows * (1 + 2 * step.width))
    return mask + rotary + prefix


def _loss_bytes(step: Step) -> int:
    """Logits, probabilities and their gradient: as many as there are at once, in float32 but for logits."""
    copies = step.width + 4 if step.degree == 1 else step.width + 12
    if step.width == 2 and step.degree == 1:
        copies += 4  # logits in float32
    batch = step.rows * step.tokens
    at_loss = batch * copies * step.vocabulary
    behind_it = batch * step.width * step.vocabulary + step.head_gradient
    return head_kept_bytes(step) - 4 * batch * step.vocabulary + max(at_loss, behind_it)


def _working_bytes(step: Step) -> int:
    """What is there beside what a block keeps, at the widest place: in its MLP's backward, or in attention,
    where scores stand beside those with a mask, or their gradients beside the weights'.
    """
    config, batch = step.config, step.rows * step.tokens
    fused = step.ffn if config.family == "chatglm" else 2 * step.ffn
    # Gradients of both ends of SwiGLU, its output again, and the residual's. An adapter's output has a
    # gradient of its own, beside that of the sum which it is part of.
    wide, narrow = (2, 3) if step.lora is not None or fused > step.ffn else (1, 2)
    mlp = batch * step.width * (wide * fused + narrow * config.hidden_size) + step.block_gradient
    names = _modules(config)
    inputs = _input_width(step, names[2], config.hidden_size) + _input_width(step, names[3], step.ffn)
    later = batch * (_norm_width(step) + inputs + step.width * fused)  # what the MLP keeps
    scores = 2 * 4 * step.rows * step.heads * step.tokens * step.keys
    attention = scores + 2 * batch * step.width * (step.queries + 2 * step.key_width)
    return max(mlp, attention - later)
