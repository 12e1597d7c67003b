"""The parameters of a quantised model, from those of the float model: names, shapes, dtypes and cuts.

A quantised `NAME.weight` is int8, and `NAME.weight_scale` stands behind it, float32. What is quantised is
told by how it is cut: linear layers' weights, and, on request, the vocabulary's (embedding and head).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.quantization.packing import check_bits, check_group_size, default_group_size
from paddle_glm.sharding import REPLICATED, ParameterSpec, Part, Row

WEIGHT, SCALE = "weight", "weight_scale"


@dataclass(frozen=True)
class Quantization:
    """bits: 4 or 8. group_size: inputs that share a scale, None for one scale per output channel.

    embeddings: the embedding and the head are quantised too.
    """

    bits: int
    group_size: int | None = None
    embeddings: bool = False

    def has(self, bits: int, group_size: int | None = None, embeddings: bool = False) -> bool:
        """Whether a request for these is met; group_size None asks for none, 0 for one scale per output."""
        sizes = (None, self.group_size or 0)
        return self.bits == bits and group_size in sizes and embeddings <= self.embeddings

    def applies_to(self, spec: ParameterSpec) -> bool:
        """Whether this float parameter is quantised: norms, biases and prefixes are not."""
        if len(spec.shape) != 2 or spec.sharding.axis is None:
            return False
        return self.embeddings or not spec.sharding.pad  # only the vocabulary is padded

    def parts(self, spec: ParameterSpec) -> dict[str, ParameterSpec]:
        """`weight` and `weight_scale` in the place of a float weight [out, in].

        Scales are cut along the outputs as the weight is; where the inputs are cut they are whole on every
        rank, since a group may reach over a cut.
        """
        outputs, inputs = spec.shape
        check_group_size(inputs, self.bits, self.group_size)
        packed, sharding = inputs * self.bits // 8, spec.sharding
        if sharding.axis == 1 and self.bits == 4:
            sharding = Row(_in_bytes(sharding.parts[0]))
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


def quantized_table(
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
            parts = quantization.parts(spec)
        except InputError as error:
            raise InputError(f"{name} cannot be quantised: {error}") from error
        found |= {name: parts[WEIGHT], scale_of(name): parts[SCALE]}
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
            f"the model is quantised to {config.quantization_bit} bits already: start from its float weights"
        )
    chosen = Quantization(bits, None, embeddings)
    if group_size is None:
        inputs = [spec.shape[1] for spec in table.values() if chosen.applies_to(spec)]
        group_size = default_group_size(bits, inputs)
    chosen = replace(chosen, group_size=group_size or None)
    quantized_table(table, chosen)  # names what does not fit
    return replace(
        config,
        quantization_bit=bits,
        quantization_group_size=chosen.group_size,
        quantization_embeddings=embeddings,
    )


def weight_of(name: str) -> str:
    """The weight that a scale belongs to; any other name as it is."""
    return name.removesuffix(SCALE) + WEIGHT if name.endswith(f".{SCALE}") else name


def scale_of(weight: str) -> str:
    """The scale that belongs to a quantised weight."""
    return weight.removesuffix(WEIGHT) + SCALE


def _in_bytes(part: Part) -> Part:
    """A stretch of 4-bit inputs counted in bytes; a unit of one input becomes half a byte's neighbour."""
    size = part.size // part.units
    if size % 2 == 0:
        return Part(part.size // 2, part.units)
    if part.units % 2:
        raise InputError(f"{part.units} units of {size} inputs do not fill whole bytes")
    return Part(part.size // 2, part.units // 2)
