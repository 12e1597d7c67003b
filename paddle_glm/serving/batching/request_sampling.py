"""Sampling values of requests and sliders -> `GenerationParams` fields."""

from collections.abc import Mapping
from typing import Any


def sampling_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Set `do_sample`: off for temperature 0, on for any other temperature, top_p or top_k."""
    values = dict(values)
    if values.get("temperature") == 0:
        del values["temperature"]
        values["do_sample"] = False
    elif not {"temperature", "top_p", "top_k"}.isdisjoint(values):
        values["do_sample"] = True
    return values
