"""`adapter_config.json`: what each of its keys does."""

import re
from pathlib import Path

import pytest

from paddle_glm.errors import InputError
from paddle_glm.key_rules import Ignored, Mapped
from paddle_glm.peft.lora_config import DEFAULT_TARGET_MODULES, LoraConfig
from paddle_glm.peft.lora_keys import RULES

SOURCE = Path("adapter_config.json")
BARE = {"r": 4, "lora_alpha": 8}
OTHER = {
    "r": 2, "lora_alpha": 3.5, "lora_dropout": 0.5, "target_modules": ["dense"], "use_rslora": True,
    "rank_pattern": {"dense": 2}, "alpha_pattern": {"dense": 1.5},
}  # fmt: skip
# The fields of LoraConfig and PeftConfig in PEFT 0.17.
FIELDS = {
    "peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "r",
    "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora",
    "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern",
    "alpha_pattern", "megatron_config", "megatron_core", "trainable_token_indices", "loftq_config",
    "eva_config", "corda_config", "use_dora", "use_qalora", "qalora_group_size", "layer_replication",
    "runtime_config", "lora_bias", "target_parameters",
}  # fmt: skip


def test_every_field_of_peft_has_a_rule() -> None:
    assert RULES.keys() >= FIELDS


@pytest.mark.parametrize("key", RULES)
def test_a_key_is_honoured_or_refused_or_changes_nothing(key: str) -> None:
    rule, before = RULES[key], LoraConfig.from_peft(BARE, SOURCE)
    assert LoraConfig.from_peft({**BARE, "unknown": 1}, SOURCE) == before
    if isinstance(rule, Ignored):
        assert LoraConfig.from_peft({**BARE, key: "anything"}, SOURCE) == before and rule.reason
        return
    if isinstance(rule, Mapped):
        after = LoraConfig.from_peft({**BARE, key: OTHER[key]}, SOURCE)
        expected = rule.convert(OTHER[key]) if rule.convert else OTHER[key]
        assert getattr(after, rule.field) == expected != getattr(before, rule.field)
        assert LoraConfig.from_peft(after.to_peft(), SOURCE) == after
        words = re.escape(rule.kind.description)
        with pytest.raises(InputError, match=f"adapter_config.json says {key} = .*: expected {words}"):
            LoraConfig.from_peft({**BARE, key: {"of": "the wrong kind"}}, SOURCE)
        return
    for allowed in rule.allowed:
        assert LoraConfig.from_peft({**BARE, key: allowed}, SOURCE) == before
    with pytest.raises(InputError, match=f"adapter_config.json says {key} = 'else'; only .* is supported"):
        LoraConfig.from_peft({**BARE, key: "else"}, SOURCE)


@pytest.mark.parametrize(
    "values", [{"r": 8.5}, {"r": "8"}, {"use_rslora": "false"}, {"lora_alpha": float("nan")}, {"r": True}]
)
def test_values_are_not_bent_into_shape(values: dict) -> None:
    with pytest.raises(InputError, match=f"adapter_config.json says {next(iter(values))} = "):
        LoraConfig.from_peft({**BARE, **values}, SOURCE)


@pytest.mark.parametrize(
    ("targets", "written"),
    [
        (["dense", "self_attention.dense"], ["dense", "self_attention.dense"]),
        ("all-linear", list(DEFAULT_TARGET_MODULES)),
        (r".*\.layers\.0\.mlp\..*", r".*\.layers\.0\.mlp\..*"),
        (["dense", r".*layers\.0.*"], r"((.*\.)?dense)|(.*layers\.0.*)"),
    ],
)
def test_targets_are_written_as_peft_reads_them(targets: object, written: object) -> None:
    """In a list PEFT takes ends of names alone, and a text is a regular expression of whole names."""
    config = LoraConfig.from_peft({**BARE, "target_modules": targets}, SOURCE)
    assert config.to_peft()["target_modules"] == written
    again = LoraConfig.from_peft(config.to_peft(), SOURCE)
    names = [
        f"transformer.encoder.layers.{layer}.{name}"
        for layer in (0, 1)
        for name in (
            "self_attention.query_key_value",
            "self_attention.dense",
            "mlp.dense_h_to_4h",
            "mlp.dense_4h_to_h",
        )
    ]
    assert [again.matches(name) for name in names] == [config.matches(name) for name in names]
