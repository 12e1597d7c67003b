"""`CausalLM`, the base class of all families: forward, loading, saving, quantising."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_glm.array_types import Array
from paddle_glm.chat_template import IGNORE_INDEX
from paddle_glm.checkpoint import Checkpoint, LazyTensor, atomic_folder, save_model
from paddle_glm.checkpoint.quantize_on_load import QuantizingCheckpoint
from paddle_glm.config import DTYPES, ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.kv_cache import ConcatLayer, KVCache
from paddle_glm.kv_cache.decode import DecodeLayer
from paddle_glm.kv_cache.tensors import PADDLE, PrefixCache
from paddle_glm.layers.attention_mask import AttentionMask, dim_size
from paddle_glm.layers.recompute import (
    FULL,
    GRANULARITIES,
    AttentionLayer,
    recomputed_attention,
    run_recomputed,
)
from paddle_glm.models.causal_lm_output import CausalLMOutput
from paddle_glm.models.device_mixin import DeviceMixin
from paddle_glm.models.dtype_mixin import DtypeMixin
from paddle_glm.models.family import family_of
from paddle_glm.models.generation_mixin import GenerationMixin
from paddle_glm.models.weight_loading import load_parameters
from paddle_glm.numpy_interop import (
    numpy_dtype,
    paddle_dtype_name,
    readonly_array,
    to_numpy,
)
from paddle_glm.parallel import SINGLE_PROCESS, ProcessGroup
from paddle_glm.parallel.cross_entropy import vocab_parallel_cross_entropy
from paddle_glm.parallel.layers import ParallelWeight, WeightFormat
from paddle_glm.parallel.lm_head import LMHead
from paddle_glm.parallel.sequence import gather_tokens, pad_tokens, slice_tokens
from paddle_glm.precision import autocast_disabled
from paddle_glm.quantization import quantization_of

KeyValue = tuple[Tensor, Tensor]


class CausalLM(GenerationMixin, DtypeMixin, DeviceMixin, nn.Layer):
    """A decoder-only language model.

    A family's subclass defines `embed`, `blocks`, `position_embeddings`, `final_norm`, `head` and
    `build_rotary_table`. A block maps `(x, positions, mask, cache)` to x and updates its layer of the cache.
    """

    def __init__(
        self, config: ModelConfig, dtype: str = "float32", group: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        self.config, self.group, self.family = config, group, family_of(config)
        self.weight_format = WeightFormat(dtype, quantization_of(config))
        self.recompute = self.sequence_parallel = False
        self.recompute_granularity = FULL
        self.prefix_cache: PrefixCache | None = None

    @property
    def dtype(self) -> str:
        """Dtype of float weights: "float32", "float16" or "bfloat16"."""
        return self.weight_format.dtype

    @property
    def weight_dtype(self) -> paddle.dtype:
        """`dtype` as Paddle's."""
        return getattr(paddle, self.dtype)  # type: ignore[no-any-return]

    # Defined by the family.
    def embed(self, input_ids: Tensor) -> Tensor:
        raise NotImplementedError

    def blocks(self) -> list[nn.Layer]:
        raise NotImplementedError

    def position_embeddings(self, position_ids: Tensor) -> Any:
        raise NotImplementedError

    def build_attention_mask(
        self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor
    ) -> AttentionMask:
        """What the tokens of `input_ids` attend to; causal by default."""
        return AttentionMask(attention_mask, dim_size(input_ids, 1))

    def build_rotary_table(self) -> Array:
        """The buffer `rotary_table`: cos and sin of every position, for the weight dtype."""
        raise NotImplementedError

    def final_norm(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def head(self) -> LMHead:
        raise NotImplementedError

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Sequence[KeyValue] | None = None,
        labels: Tensor | None = None,
        use_cache: bool = False,
        output_hidden_states: bool = False,
        return_last_logit: bool = False,
        return_logits: bool = True,
    ) -> CausalLMOutput:
        """Run the model.

        input_ids: int64 [batch, tokens].
        position_ids: int64 [batch, tokens], or [batch, 2, tokens] for families with two rows; default: the
            family's positions.
        attention_mask: int [batch, past + tokens]: 0 for padding, 1 for real tokens, 1, 2, ... for the
            samples
            of a packed sequence; or bool [batch, 1, tokens, past + tokens], True where a query may attend.
            Default: no padding. A prefix is not part of it; all tokens attend to it.
        past_key_values: the cache returned by an earlier call, or (key, value) of each layer, including a
            prefix; it is not modified, and gradients flow through it.
        labels: int64 [batch, tokens], aligned with input_ids and shifted internally; -100 is ignored.
        return_last_logit: return only the last token's logits, [batch, 1, vocab]; not with labels.
        return_logits: False for the loss alone, for which logits of all tokens need not be in memory at once.
        Raises `InputError` for return_last_logit with labels, and for use_cache or return_last_logit in
        training with sequence parallelism.
        """
        if return_last_logit and labels is not None:
            raise InputError("return_last_logit and labels exclude each other: give one of them")
        cache = self._concat_cache(past_key_values, input_ids.shape[0], use_cache)
        past = 0 if cache is None else cache.own_length
        if attention_mask is None:
            attention_mask = paddle.ones([input_ids.shape[0], past + input_ids.shape[1]], dtype="int64")
        if position_ids is None:
            position_ids = self._default_positions(input_ids, attention_mask)
        if (added := self._missing_tokens(input_ids.shape[1], use_cache or return_last_logit)) > 0:
            columns = pad_tokens(attention_mask, added)
            output = self.forward(
                pad_tokens(input_ids, added),
                pad_tokens(position_ids, added),
                pad_tokens(columns, added, axis=2) if columns.ndim == 4 else columns,
                past_key_values,
                None if labels is None else pad_tokens(labels, added, IGNORE_INDEX),
                output_hidden_states=output_hidden_states,
                return_logits=return_logits,
            )
            return output.without_last(added)
        if attention_mask.ndim == 4:
            mask = AttentionMask(attention_mask, input_ids.shape[1])
        else:
            mask = self.build_attention_mask(input_ids, position_ids, attention_mask)
        hidden: list[Tensor] | None = [] if output_hidden_states else None
        recomputed = self.recompute and self.training and not use_cache
        x = self._run_blocks(input_ids, position_ids, mask, cache, hidden, recomputed)
        logits, loss = self._logits_and_loss(x[:, -1:] if return_last_logit else x, labels, return_logits)
        return CausalLMOutput(
            logits=logits,
            loss=loss,
            past_key_values=cache if use_cache else None,
            hidden_states=None if hidden is None else tuple(hidden),
        )

    def _logits_and_loss(
        self, x: Tensor, labels: Tensor | None, return_logits: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Both as in `CausalLMOutput`, of the last block's output."""
        head, normalized = self.head(), self.final_norm(x)
        if labels is None:
            return head.gather(head(normalized)).astype("float32") if return_logits else None, None
        shifted = paddle.concat([labels[:, 1:], paddle.full_like(labels[:, :1], IGNORE_INDEX)], axis=1)
        if not return_logits and head.chunk_rows(labels.size) < labels.size:
            return None, _mean_loss(head(normalized, shifted), shifted)
        local = head(normalized)
        with autocast_disabled():
            loss = _mean_loss(vocab_parallel_cross_entropy(local, shifted, self.group), shifted)
        if not return_logits or (self.training and self.group.degree > 1):
            return None, loss
        return head.gather(local).astype("float32"), loss

    def _default_positions(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The family's positions; a boolean mask implies no padding."""
        mask = np.ones((input_ids.shape[0], attention_mask.shape[-1]), np.int64)
        if attention_mask.ndim == 2:
            mask = attention_mask.numpy()
        positions = self.family.default_positions(self.config, input_ids.numpy(), mask)
        return paddle.to_tensor(positions, place=input_ids.place)

    def _concat_cache(self, past: Sequence[KeyValue] | None, batch: int, use_cache: bool) -> KVCache | None:
        """A differentiable cache for one call: the given past, else the prefix; None if not needed."""
        prefix = self.prefix_cache
        if past is None and prefix is not None:
            past = prefix.key_values(batch)
        if past is not None:
            length = 0 if prefix is None else prefix.length
            return KVCache([ConcatLayer(PADDLE, *pair) for pair in past], length)
        return KVCache([ConcatLayer(PADDLE) for _ in self.blocks()]) if use_cache else None

    def _run_blocks(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        mask: AttentionMask,
        cache: KVCache | None,
        hidden: list[Tensor] | None = None,
        recomputed: bool = False,
    ) -> Tensor:
        """The last block's output, [batch, tokens, hidden]; updates the cache, unless parts are recomputed.

        mask: of the rows' own columns. hidden: gets the embeddings and every block's output.
        """
        x = self.embed(input_ids)
        positions = self.position_embeddings(position_ids)
        mask = mask.for_cache(cache)
        whole_blocks = recomputed and self.recompute_granularity == FULL
        with recomputed_attention(self.recompute_granularity if recomputed and not whole_blocks else None):
            for index, block in enumerate(self.blocks()):
                if hidden is not None:
                    hidden.append(x)
                layer = None if cache is None else cache.layers[index]
                if whole_blocks:
                    x = run_recomputed(block, x, positions, mask, layer)
                else:
                    x = block(x, positions, mask, layer)
        if hidden is not None:
            hidden.append(x)
            if self._has_slices:
                hidden[:] = [gather_tokens(one, self.group) for one in hidden]
        return x

    @property
    def _has_slices(self) -> bool:
        """Whether each rank has a slice of the tokens between the sharded layers."""
        return self.sequence_parallel and self.training

    def _missing_tokens(self, tokens: int, needs_all: bool) -> int:
        """How many tokens of padding make slices of one size."""
        if not self._has_slices:
            return 0
        if needs_all:
            raise InputError(
                "use_cache and return_last_logit need all tokens on each rank, but in training sequence "
                "parallelism shares them out: call model.eval() first"
            )
        return -tokens % self.group.degree

    def new_cache(self, batch: int, prefix: PrefixCache | None = None) -> KVCache:
        """A cache for `forward_with_cache`, written in place: empty, or with a prefix in each row.

        prefix: in place of the model's own.
        """
        if (prefix := prefix or self.prefix_cache) is None:
            return KVCache([DecodeLayer() for _ in self.blocks()])
        return KVCache([DecodeLayer(*pair) for pair in prefix.key_values(batch)], prefix.length)

    def forward_with_cache(
        self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor, cache: KVCache
    ) -> Tensor:
        """One prefill or decode step: backends run it, export traces it.

        input_ids, position_ids, attention_mask: see `Family.step_inputs`. Updates the cache. Returns the
        logits of the last position, float32 [batch, vocab].
        """
        mask = self.build_attention_mask(input_ids, position_ids, attention_mask)
        x = self._run_blocks(input_ids, position_ids, mask, cache)
        last = x if x.shape[1] == 1 else x[:, -1:]
        return self.head().gather(self.head()(self.final_norm(last))).astype("float32").squeeze(1)

    def enable_recompute(self, granularity: str = FULL) -> None:
        """Activation checkpointing in training.

        granularity: "full" saves only each block's input, "full_attn" recomputes attention layers,
        "core_attn" what is between their products. Raises `InputError` for others, and for those but "full"
        where a family's attention is no `AttentionLayer`.
        """
        parts = any(isinstance(layer, AttentionLayer) for layer in self.sublayers())
        known = GRANULARITIES if parts else (FULL,)
        if granularity not in known:
            raise InputError(f"recompute_granularity {granularity!r}: expected {', '.join(known)}")
        self.recompute, self.recompute_granularity = True, granularity

    def enable_sequence_parallel(self) -> None:
        """In training, share out the tokens over the tensor-parallel ranks between the sharded layers."""
        self.sequence_parallel = self.group.degree > 1
        slice_tokens(self, self.group)

    def named_arrays(self) -> Iterator[tuple[str, Array]]:
        """(hub name, numpy array of this rank's shard in the weight dtype) of every parameter."""
        for name, parameter in self.named_parameters():
            yield name, to_numpy(parameter)

    def load_weights(self, checkpoint: Checkpoint | QuantizingCheckpoint) -> None:
        """Set all parameters in place from a checkpoint of any degree; reads only this rank's shards."""
        load_parameters(self, checkpoint, self.group)

    def quantize(self, bits: int, group_size: int | None = None, embeddings: bool = False) -> "CausalLM":
        """Weight-only quantisation of linear layers to 4 or 8 bits, in place, one layer at a time.

        group_size: inputs per scale; None means 128 for 4 bits (smaller if sizes require it) and one scale
            per output channel for 8; 0 means one scale per output channel. embeddings: also embedding and LM
            head.
        Returns the model, unchanged if it is already quantised this way. Raises `InputError` for a shard,
        another quantisation, sizes that do not fit, and non-finite weights.
        """
        held = quantization_of(self.config)
        if held is not None and held.satisfies(bits, group_size, embeddings):
            return self
        if self.group.degree > 1:
            raise InputError("quantize needs the whole model: give from_pretrained quantization_bit instead")
        config = self.family.quantized_config(self.config, bits, group_size, embeddings)
        for name, parameter in self.named_parameters():
            if not bool(paddle.isfinite(parameter.astype("float32")).all()):
                raise InputError(f"{name} contains NaN or infinity: the model cannot be quantised")
        self.weight_format = WeightFormat(self.dtype, quantization_of(config))
        for layer in self.sublayers():
            if isinstance(layer, ParallelWeight):
                layer.quantize(self.weight_format)
        self.config = config
        return self

    def save_pretrained(
        self,
        folder: str | Path,
        max_shard_size: str = "5GB",
        format: str = "safetensors",
        overwrite: bool = False,
    ) -> None:
        """Write `config.json` and the weights atomically.

        format: "safetensors" and "bin" use the hub's names and layout, "pdparams" PaddleNLP's.
        Raises `InputError` for a shard, and for a model with LoRA adapters.
        """
        if self.group.degree > 1:
            raise InputError("save_pretrained needs the whole model: save shards and run `paddle-glm merge`")
        extra_names = {name for name, _ in self.named_parameters()} - self.family.parameters(
            self.config
        ).keys()
        if extra_names:
            raise InputError(
                f"{sorted(extra_names)[0]} is no part of the model: call merge_and_unload(model) first"
            )
        with atomic_folder(folder, overwrite=overwrite) as path:
            config = replace(self.config, dtype=self.dtype)
            save_model(
                path,
                config,
                lazy_tensors(self.named_parameters()),
                file_format=format,
                max_shard_size=max_shard_size,
            )


def _mean_loss(loss: Tensor, labels: Tensor) -> Tensor:
    """The mean of the loss per token over labels that are not -100; 0 if there are none."""
    with autocast_disabled():
        return loss.sum() / (labels != IGNORE_INDEX).astype("float32").sum().clip(min=1.0)


def _read_whole(tensor: Tensor) -> list[Array]:
    return [readonly_array(tensor)]


def lazy_tensors(
    tensors: Iterable[tuple[str, Tensor]], read: Callable[[Tensor], list[Array]] = _read_whole
) -> Iterator[tuple[str, LazyTensor]]:
    """For writers: tensors that leave the device one at a time, while they are written.

    read: the values of a tensor, as arrays whose concatenation they are.
    """
    for name, tensor in tensors:
        dtype = numpy_dtype(paddle_dtype_name(tensor))
        yield name, LazyTensor(dtype, tuple(tensor.shape), partial(read, tensor))
