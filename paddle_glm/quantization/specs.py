"""Parameter specs of a quantised model, derived from those of the float model.

A quantised `NAME.weight` is int8 and followed by `NAME.weight_scale`, float32. Linear weights are quantised,
optionally also embedding and head; their sharding tells them apart from other parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.quantization.packing import check_bits, check_group_size, default_group_size
from paddle_glm.sharding import REPLICATED, ParameterSpec, Segment, row_parallel

WEIGHT, SCALE = "weight", "weight_scale"


@dataclass(frozen=True)
class QuantizationConfig:
    """How a model is quantised.

    bits: 4 or 8. group_size: inputs per scale, None for one scale per output channel. embeddings: embedding
    and head are quantised too.
    """

    bits: int
    group_size: int | None = None
    embeddings: bool = False

    def satisfies(self, bits: int, group_size: int | None = None, embeddings: bool = False) -> bool:
        """Whether this meets a request; group_size None: any, 0: one scale per output channel."""
        sizes = (None, self.group_size or 0)
        return self.bits == bits and group_size in sizes and embeddings <= self.embeddings

    def applies_to(self, spec: ParameterSpec) -> bool:
        """Whether a float parameter is quantised; norms, biases and prefix encoders are not."""
        if len(spec.shape) != 2 or spec.sharding.axis is None:
            return False
        return self.embeddings or not spec.sharding.pad  # only embedding and head are padded

    def parameter_specs(self, spec: ParameterSpec) -> dict[str, ParameterSpec]:
        """Specs of `weight` and `weight_scale` that replace a float weight [out, in].

        Scales of column-parallel weights are sharded like the weight, those of row-parallel weights are
        replicated, since a group may span two ranks. Raises `InputError` if groups do not divide the inputs.
        """
        outputs, inputs = spec.shape
        check_group_size(inputs, self.bits, self.group_size)
        packed, sharding = inputs * self.bits // 8, spec.sharding
        if sharding.axis == 1 and self.bits == 4:
            sharding = row_parallel(_packed_segment(sharding.segments[0]))
        groups = () if self.group_size is None else (inputs // self.group_size,)
        scale_sharding = sharding if sharding.axis == 0 else REPLICATED
        return {
            WEIGHT: ParameterSpec((outputs, packed), sharding, "int8"),
            SCALE: ParameterSpec((outputs, *groups), scale_sharding, "float32"),
        }


def quantization_of(config: ModelConfig) -> QuantizationConfig | None:
    """How the model of a configuration is quantised; None for a float model."""
    if not config.quantization_bit:
        return None
    return QuantizationConfig(
        config.quantization_bit, config.quantization_group_size, config.quantization_embeddings
    )


def quantized_specs(
    float_specs: Mapping[str, ParameterSpec], quantization: QuantizationConfig | None
) -> dict[str, ParameterSpec]:
    """Specs of the quantised model from those of the float model, in the same order.

    Raises `InputError` naming a parameter whose shape does not allow it.
    """
    if quantization is None:
        return dict(float_specs)
    specs: dict[str, ParameterSpec] = {}
    for name, spec in float_specs.items():
        if not quantization.applies_to(spec):
            specs[name] = spec
            continue
        try:
            quantized = quantization.parameter_specs(spec)
        except InputError as error:
            raise InputError(f"{name} cannot be quantised: {error}") from error
        specs |= {name: quantized[WEIGHT], scale_name(name): quantized[SCALE]}
    return specs


def with_quantization(
    config: ModelConfig,
    float_specs: Mapping[str, ParameterSpec],
    bits: int,
    group_size: int | None = None,
    embeddings: bool = False,
) -> ModelConfig:
    """The configuration of the quantised model.

    group_size: None for `default_group_size`, 0 for one scale per output channel. Raises `InputError` if
    shapes do not allow it, or if the model is already quantised.
    """
    check_bits(bits)
    if config.quantization_bit:
        raise InputError(
            f"the model is already quantised to {config.quantization_bit} bits: start from its float weights"
        )
    quantization = QuantizationConfig(bits, None, embeddings)
    if group_size is None:
        inputs = [spec.shape[1] for spec in float_specs.values() if quantization.applies_to(spec)]
        group_size = default_group_size(bits, inputs)
    quantization = replace(quantization, group_size=group_size or None)
    quantized_specs(float_specs, quantization)  # raises if it is impossible
    return replace(
        config,
        quantization_bit=bits,
        quantization_group_size=quantization.group_size,
        quantization_embeddings=embeddings,
    )


def weight_name(name: str) -> str:
    """The name of the weight of a scale; any other name is returned unchanged."""
    return name.removesuffix(SCALE) + WEIGHT if name.endswith(f".{SCALE}") else name


def scale_name(weight: str) -> str:
    """The name of the scale of a quantised weight."""
    return weight.removesuffix(WEIGHT) + SCALE


def _packed_segment(segment: Segment) -> Segment:
    """A segment of 4-bit inputs in bytes; blocks of an odd number of inputs are merged in pairs."""
    size = segment.size // segment.num_shards
    if size % 2 == 0:
        return Segment(segment.size // 2, segment.num_shards)
    if segment.num_shards % 2:
        raise InputError(f"{segment.num_shards} blocks of {size} 4-bit inputs do not fill whole bytes")
    return Segment(segment.size // 2, segment.num_shards // 2)
