import pytest

from paddle_glm.errors import InputError
from paddle_glm.generation.params import GenerationParams


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.0), ("temperature", -1.0), ("temperature", float("nan")), ("top_p", 0.0),
     ("top_p", 1.5), ("top_k", -1), ("repetition_penalty", 0.0), ("num_beams", 0), ("max_length", 0),
     ("max_new_tokens", 0), ("seed", -1)],
)  # fmt: skip
def test_values_that_cannot_work_are_named(name, value):
    with pytest.raises(InputError, match=name):
        GenerationParams(**{name: value})


def test_beam_search_does_not_sample():
    with pytest.raises(InputError, match="do_sample=False"):
        GenerationParams(num_beams=2)
    assert GenerationParams(num_beams=2, do_sample=False).num_beams == 2


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean 'temperature'"):
        GenerationParams.from_dict({"temprature": 0.5})


@pytest.mark.parametrize(
    ("values", "limit", "expected"),
    [({"max_length": 20}, None, 20), ({"max_length": 20}, 16, 16), ({"max_new_tokens": 3}, None, 13),
     ({"max_new_tokens": 3, "max_length": 5}, None, 13), ({"max_new_tokens": 30}, 16, 16)],
)  # fmt: skip
def test_where_rows_stop(values, limit, expected):
    assert GenerationParams(**values).max_total_length(10, limit) == expected


@pytest.mark.parametrize(
    ("values", "limit"), [({"max_length": 10}, None), ({}, 10), ({"max_new_tokens": 5}, 9)]
)
def test_a_prompt_without_room_is_an_error(values, limit):
    with pytest.raises(InputError, match="prompt of 10 tokens leaves no room"):
        GenerationParams(**values).max_total_length(10, limit)
