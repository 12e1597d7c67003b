"""Exported graphs name the version of the operators that they need: a changed operator is another one."""

import re

from paddle_glm.kernels.build import SOURCES

# csrc/layout.h: kOperatorsVersion, with the inputs, outputs and attributes of its operators.
VERSION = 2
OPERATORS = {
    "add_rms_norm": "X, Residual, Weight | Sum, Y | epsilon: float",
    "append_cache": "Key, Value, KeyBuffer, ValueBuffer, Past | SamePast",
    "append_rotary": "QKV, Cos, Sin, KeyBuffer, ValueBuffer, Past | Query | "
    "num_heads: int, num_kv_heads: int",
    "attention_block": "X, Norm, QkvWeight, QkvScale, QkvBias, Cos, Sin, KeyBuffer, ValueBuffer, Mask, Past, "
    "DenseWeight, DenseScale | Y | epsilon: float, bits: int, num_heads: int, scale: float, add_input: bool, "
    "arithmetic: std::string",
    "cached_attention": "Query, KeyBuffer, ValueBuffer, Mask, Past | Output | "
    "scale: float, arithmetic: std::string",
    "half_linear": "X, Weight | Y | arithmetic: std::string",
    "half_linear_transposed": "GradY, Weight | GradX | arithmetic: std::string",
    "mlp_block": "X, Norm, UpWeight, UpScale, DownWeight, DownScale | Y | "
    "epsilon: float, bits: int, add_input: bool, arithmetic: std::string",
    "quantized_embedding": "Ids, Values, Scale | Rows | bits: int",
    "quantized_linear": "X, Values, Scale | Y | bits: int, arithmetic: std::string",
    "quantized_linear_transposed": "GradY, Values, Scale | GradX | bits: int, arithmetic: std::string",
    "rms_norm": "X, Weight | Y | epsilon: float",
    "swiglu": "X | Y",
}
BUILD_OP = re.compile(r"PD_BUILD_OP\((\w+)\)(.*?)\.SetKernelFn", re.DOTALL)


def test_a_changed_operator_is_another_version():
    [version] = re.findall(r"kOperatorsVersion = (\d+);", (SOURCES / "layout.h").read_text(encoding="utf-8"))
    found = {}
    for source in SOURCES.glob("operators_*.cc"):
        if source.name == "operators_training.cc":  # never in an exported graph
            continue
        for operator, text in BUILD_OP.findall(source.read_text(encoding="utf-8")):
            name = operator.removeprefix("paddle_glm_")
            if name.startswith("paged_"):  # neither
                continue
            found[name] = " | ".join(
                ", ".join(re.findall(r'"([^"]+)"', part)) for part in re.split(r"\.(?:Outputs|Attrs)", text)
            )
    assert (int(version), found) == (VERSION, OPERATORS), "raise kOperatorsVersion, and follow here"
