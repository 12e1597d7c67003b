"""A family that differs from the released ones wherever it can; `tests/models/test_toy_family.py` adds it."""

from paddle_glm.models.family import BlockActivations, Family
from tests.toy_family.parameters import parameters
from tests.toy_family.positions import position_rule, positions, rotary_dim
from tests.toy_family.template import TEMPLATE

FAMILY = Family(
    name="toy",
    title="Toy",
    float_parameters=parameters,
    positions=positions,
    position_rule=position_rule,
    template=TEMPLATE,
    model="tests.toy_family.modeling:ToyModel",
    tokenizer="tests.toy_family.tokenizer:ToyTokenizer",
    vocab_file="toy.model",
    rotary_dim=rotary_dim,
    block_activations=BlockActivations(
        blocks="layers",
        linear_modules=("attention.qkv", "attention.out", "up", "down"),
        ffn_inputs=1,
        norm_statistics=1,
    ),
    chat_generation_defaults={"top_p": 0.5},
)
