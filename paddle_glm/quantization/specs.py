"""The parameters of a quantised model, from those of the float model: names, shapes, dtypes and cuts.

A quantised `NAME.weight` is int8, and `NAME.weight_scale` stands behind it, float32. What is quantised is
told by how it is cut: linear layers' weights, and, on request, the vocabulary's (embedding and head).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.quantization.packing import check_bits, check_group_size, default_group_size
from paddle_glm.sharding import REPLICATED, ParameterSpec, Segment, row_parallel

WEIGHT, SCALE = "weight", "weight_scale"


@dataclass(frozen=True)
class Quantization:
    """bits: 4 or 8. group_size: inputs that share a scale, None for one scale per output channel.

    embeddings: the embedding and the head are quantised too.
    """

    bits: int
    group_size: int | None = None
    embeddings: bool = False

    def satisfies(self, bits: int, group_size: int | None = None, embeddings: bool = False) -> bool:
        """Whether a request for these is met; group_size None asks for none, 0 for one scale per output."""
        sizes = (None, self.group_size or 0)
        return self.bits == bits and group_size in sizes and embeddings <= self.embeddings

    def applies_to(self, spec: ParameterSpec) -> bool:
        """Whether this float parameter is quantised: norms, biases and prefixes are not."""
        if len(spec.shape) != 2 or spec.sharding.axis is None:
            return False
        return self.embeddings or not spec.sharding.pad  # only the vocabulary is padded

    def parameter_specs(self, spec: ParameterSpec) -> dict[str, ParameterSpec]:
        """`weight` and `weight_scale` in the place of a float weight [out, in].

        Scales are cut along the outputs as the weight is; where the inputs are cut they are whole on every
        rank, since a group may reach over a cut.
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


def quantization_of(config: ModelConfig) -> Quantization | None:
    """What a configuration says; None for a float model."""
    if not config.quantization_bit:
        return None
    return Quantization(
        config.quantization_bit, config.quantization_group_size, config.quantization_embeddings
    )


def quantized_specs(
    table: Mapping[str, ParameterSpec], quantization: Quantization | None
) -> dict[str, ParameterSpec]:
    """The table of the quantised model from that of the float model, in its order.

    Raises `InputError` naming the parameter that cannot be quantised so.
    """
    if quantization is None:
        return dict(table)
    found: dict[str, ParameterSpec] = {}
    for name, spec in table.items():
        if not quantization.applies_to(spec):
            found[name] = spec
            continue
        try:
            parts = quantization.parameter_specs(spec)
        except InputError as error:
            raise InputError(f"{name} cannot be quantised: {error}") from error
        found |= {name: parts[WEIGHT], scale_name(name): parts[SCALE]}
    return found


def with_quantization(
    config: ModelConfig,
    table: Mapping[str, ParameterSpec],
    bits: int,
    group_size: int | None = None,
    embeddings: bool = False,
) -> ModelConfig:
    """The configuration of the model quantised so; `table` is the float model's.

    group_size: None takes `default_group_size`, 0 one scale per output channel. Raises `InputError` where
    sizes do not allow it, or where the model is quantised already.
    """
    check_bits(bits)
    if config.quantization_bit:
        raise InputError(
            f"the model is already quantised to {config.quantization_bit} bits: start from its float weights"
        )
    chosen = Quantization(bits, None, embeddings)
    if group_size is None:
        inputs = [spec.shape[1] for spec in table.values() if chosen.applies_to(spec)]
        group_size = default_group_size(bits, inputs)
    chosen = replace(chosen, group_size=group_size or None)
    quantized_specs(table, chosen)  # names what does not fit
    return replace(
        config,
        quantization_bit=bits,
        quantization_group_size=chosen.group_size,
        quantization_embeddings=embeddings,
    )


def weight_name(name: str) -> str:
    """The weight that a scale belongs to; any other name as it is."""
    return name.removesuffix(SCALE) + WEIGHT if name.endswith(f".{SCALE}") else name


def scale_name(weight: str) -> str:
    """The scale that belongs to a quantised weight."""
    return weight.removesuffix(WEIGHT) + SCALE


def _packed_segment(segment: Segment) -> Segment:
    """A stretch of 4-bit inputs counted in bytes; a unit of one input becomes half a byte's neighbour."""
    size = segment.size // segment.num_shards
    if size % 2 == 0:
        return Segment(segment.size // 2, segment.num_shards)
    if segment.num_shards % 2:
        raise InputError(f"{segment.num_shards} units of {size} inputs do not fill whole bytes")
    return Segment(segment.size // 2, segment.num_shards // 2)
