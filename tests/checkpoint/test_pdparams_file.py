"""`.pdparams` files: written as paddle.load reads them, read as paddle.save writes them."""

from pathlib import Path

import ml_dtypes
import numpy as np
import paddle
import pytest

from paddle_glm.checkpoint.hashed_file import file_digest, pop_file_record
from paddle_glm.checkpoint.lazy_tensor import DTYPES, as_lazy
from paddle_glm.checkpoint.pdparams_file import open_pdparams, write_pdparams
from paddle_glm.errors import InputError

TENSORS = {
    **{name: np.arange(6).reshape(2, 3).astype(dtype) for name, dtype in DTYPES.items()},
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 4), np.float16),
    "transposed": np.arange(12.0).reshape(3, 4).T,
    "词": np.array([1], np.int8),
}


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    write_pdparams(tmp_path / "a.pdparams", {name: as_lazy(tensor) for name, tensor in TENSORS.items()})
    return tmp_path / "a.pdparams"


def test_what_is_written_is_read_bit_for_bit(ours: Path) -> None:
    opened = open_pdparams(ours)
    assert opened.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert (opened[name].dtype, opened[name].shape) == (tensor.dtype, tensor.shape), name
        assert opened[name].tobytes() == tensor.tobytes()
        assert not opened[name].flags.writeable or tensor.size == 0
        assert not opened[name].flags.owndata or tensor.size == 0
    assert pop_file_record(ours) == {"size": ours.stat().st_size, "xxh3_128": file_digest(ours)}


def test_paddle_reads_it(ours: Path) -> None:
    loaded = paddle.load(str(ours))
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        expected = "bfloat16" if tensor.dtype == ml_dtypes.bfloat16 else str(tensor.dtype)
        assert loaded[name].dtype == getattr(paddle, expected)
        assert tuple(loaded[name].shape) == tensor.shape
        np.testing.assert_array_equal(loaded[name].astype("float64"), tensor.astype(np.float64))


@pytest.mark.parametrize("protocol", [3, 4])
def test_what_paddle_writes_is_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "b.pdparams"
    state = {"w": paddle.arange(6, dtype="float32").reshape([2, 3]), "b": paddle.ones([2], dtype="bfloat16")}
    paddle.save(state, str(path), protocol=protocol)
    opened = open_pdparams(path)
    assert opened.keys() == state.keys()
    np.testing.assert_array_equal(opened["w"], np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(opened["b"], np.ones(2, ml_dtypes.bfloat16))
    # Its arrays may lie in Fortran's order.
    paddle.save({"w": np.asfortranarray(np.arange(6.0).reshape(2, 3))}, str(path), protocol=protocol)
    np.testing.assert_array_equal(open_pdparams(path)["w"], np.arange(6.0).reshape(2, 3))


def test_an_optimizer_is_not_a_model(tmp_path: Path) -> None:
    layer = paddle.nn.Linear(2, 3)
    scheduler = paddle.optimizer.lr.NoamDecay(8, 10)
    optimizer = paddle.optimizer.AdamW(scheduler, parameters=layer.parameters())
    layer(paddle.ones([1, 2])).sum().backward()
    optimizer.step()
    paddle.save(optimizer.state_dict(), str(tmp_path / "model.pdopt"))
    with pytest.raises(InputError, match="'LR_Scheduler' is a dict, expected a name and a tensor"):
        open_pdparams(tmp_path / "model.pdopt")
    moments = {name: value for name, value in optimizer.state_dict().items() if name != "LR_Scheduler"}
    paddle.save(moments, str(tmp_path / "moments.pdopt"))
    assert open_pdparams(tmp_path / "moments.pdopt").keys() == moments.keys()


def test_a_list_is_not_a_state_dict(tmp_path: Path) -> None:
    paddle.save([paddle.ones([3])], str(tmp_path / "list.pdparams"))
    with pytest.raises(InputError, match="holds a list, expected a dict of tensors"):
        open_pdparams(tmp_path / "list.pdparams")
