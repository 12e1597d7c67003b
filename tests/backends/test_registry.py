import pytest

from paddle_glm.auto.backend import open_backend
from paddle_glm.backends import EngineOptions
from paddle_glm.errors import InputError


def test_an_unknown_backend_lists_the_known(tmp_path):
    with pytest.raises(InputError, match="'tensorflow' is unknown: expected one of dygraph, paddle"):
        open_backend("tensorflow", tmp_path)


@pytest.mark.parametrize(("name", "value"), [("device", "tpu"), ("threads", -1), ("device_id", -1)])
def test_options_that_cannot_work(name, value):
    with pytest.raises(InputError, match=str(value)):
        EngineOptions(**{name: value})


def test_a_gpu_has_one_number():
    assert EngineOptions("gpu:1").resolve_device(has_gpu=False) == ("gpu", 1)
    assert EngineOptions("auto", 2).resolve_device(has_gpu=True) == ("gpu", 2)
    with pytest.raises(InputError, match="device gpu:1 and device_id 2"):
        EngineOptions("gpu:1", 2)


def test_threads_that_are_asked_for_are_used():
    assert EngineOptions(threads=3).num_threads() == 3
    assert EngineOptions().num_threads() >= 1
