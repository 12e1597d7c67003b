"""How requests and sliders say what is sampled."""

from collections.abc import Mapping
from typing import Any


def sampling_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as `GenerationParams` has them: a temperature of 0 turns sampling off, others turn it on."""
    values = dict(values)
    if values.get("temperature") == 0:
        del values["temperature"]
        values["do_sample"] = False
    elif not {"temperature", "top_p", "top_k"}.isdisjoint(values):
        values["do_sample"] = True
    return values
