"""Which device is taken, and how much memory is free: files of /proc and /sys laid out in a folder."""

from pathlib import Path

import paddle
import pytest

from paddle_glm import hardware
from paddle_glm.errors import InputError
from paddle_glm.hardware import (
    choose_device,
    free_cpu_memory,
    num_threads,
    parse_device,
    resolve_device,
    use_device,
)
from paddle_glm.main import main

GB = 10**9
UNLIMITED = 9223372036854771712


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def machine(available: int = 64 * GB, groups: str = "0::/\n") -> dict[str, str]:
    lines = ["MemFree: 1 kB", f"MemAvailable:  {available // 1024} kB", "SwapFree: 0 kB", ""]
    return {"proc/meminfo": "\n".join(lines), "proc/self/cgroup": groups}


def group_v2(folder: str, limit: int | str, used: int, inactive: int = 0, active: int = 0) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/{folder}memory.max": f"{limit}\n",
        f"sys/fs/cgroup/{folder}memory.current": f"{used}\n",
        f"sys/fs/cgroup/{folder}memory.stat": f"anon 5\ninactive_file {inactive}\nactive_file {active}\n",
    }


def group_v1(folder: str, limit: int, used: int, inactive: int = 0) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/memory/{folder}memory.limit_in_bytes": f"{limit}\n",
        f"sys/fs/cgroup/memory/{folder}memory.usage_in_bytes": f"{used}\n",
        f"sys/fs/cgroup/memory/{folder}memory.stat": f"inactive_file 1\ntotal_inactive_file {inactive}\n",
    }


def test_a_machine_without_groups(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": machine(24 * GB)["proc/meminfo"]})
    assert free_cpu_memory(tmp_path) == pytest.approx(24 * GB, abs=1024)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # Its own limit; pages of files that were read can be dropped.
        (machine() | group_v2("", 8 * GB, 6 * GB, 3 * GB, 1 * GB), 6 * GB),
        # No limit, in both spellings.
        (machine(20 * GB) | group_v2("", "max", 6 * GB), 20 * GB),
        (machine(20 * GB, "4:memory:/\n") | group_v1("", UNLIMITED, 6 * GB), 20 * GB),
        # The group around it leaves less than its own; systemd puts them one in another.
        (
            machine(groups="0::/user.slice/app.scope\n")
            | group_v2("user.slice/app.scope/", "max", GB)
            | group_v2("user.slice/", 10 * GB, 3 * GB)
            | group_v2("", 50 * GB, 5 * GB),
            7 * GB,
        ),
        # A container sees its own group at the top, and the path of the host.
        (machine(groups="0::/docker/0a1b\n") | group_v2("", 4 * GB, 1 * GB), 3 * GB),
        (machine(groups="9:cpu:/\n4:memory,rdma:/docker/0a\n") | group_v1("", 4 * GB, 3 * GB, GB), 2 * GB),
        # Version 1 for memory, version 2 for the rest.
        (
            machine(groups="4:memory:/job\n0::/job\n")
            | group_v1("job/", 5 * GB, 1 * GB)
            | group_v1("", UNLIMITED, 2 * GB),
            4 * GB,
        ),
        # A group that does not tell what its pages are.
        (machine() | {"sys/fs/cgroup/memory.max": f"{8 * GB}", "sys/fs/cgroup/memory.current": "9"}, 8 * GB),
        # More than the machine has; all taken.
        (machine(2 * GB) | group_v2("", 8 * GB, 1 * GB), 2 * GB),
        (machine() | group_v2("", 8 * GB, 9 * GB), 0),
    ],
)  # fmt: skip
def test_limits_of_containers_count(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert free_cpu_memory(write(tmp_path, files)) == pytest.approx(expected, abs=1024)


def test_this_machine_and_others_than_linux(tmp_path: Path) -> None:
    here = free_cpu_memory()
    assert 0 < here < 2**50
    # Without /proc it is psutil that knows; both see the same machine.
    assert free_cpu_memory(tmp_path) >= here - 2 * GB


@pytest.mark.parametrize(
    ("text", "device_id", "expected"),
    [("auto", None, ("auto", None)), ("cpu", None, ("cpu", None)), ("GPU", 2, ("gpu", 2)),
     ("gpu:1", None, ("gpu", 1)), ("cuda:0", 0, ("gpu", 0)), (3, None, ("gpu", 3)),
     (paddle.CPUPlace(), None, ("cpu", None))],
)  # fmt: skip
def test_names_of_devices(text, device_id, expected) -> None:
    assert parse_device(text, device_id) == expected


@pytest.mark.parametrize(("text", "device_id"), [("tpu", None), ("cpu:1", None), ("gpu:1", 2), ("gpu", -1)])
def test_names_that_are_none(text, device_id) -> None:
    with pytest.raises(InputError, match=f"device '?{text}'?.*expected"):
        parse_device(text, device_id)


def test_auto_for_an_engine_that_is_not_paddles() -> None:
    assert choose_device("gpu:1", None, has_gpu=False) == ("gpu", 1)
    assert choose_device("auto", 2, has_gpu=True) == ("gpu", 2)
    assert choose_device("auto", None, has_gpu=False) == ("cpu", None)


def test_threads_that_are_asked_for_are_used() -> None:
    assert num_threads(3) == 3
    assert num_threads() >= 1


def gpus(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "gpu_count", lambda: count)


def test_auto_is_the_gpu_where_there_is_one(monkeypatch) -> None:
    assert resolve_device() == "cpu"
    gpus(2, monkeypatch)
    assert resolve_device() == resolve_device("gpu") == "gpu"
    assert resolve_device("auto", 1) == resolve_device("gpu:1") == "gpu:1"
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(InputError, match="device gpu:2: Paddle sees 2 GPUs, gpu:0 to gpu:1"):
        resolve_device("gpu:2")


@pytest.mark.skipif(hardware.gpu_count() > 0, reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"device gpu: .*install paddlepaddle-gpu.* give cpu"):
        use_device("gpu")
    assert use_device() == paddle.get_device() == "cpu"


@pytest.mark.skipif(hardware.gpu_count() > 0, reason="there is a GPU")
def test_gpus_of_the_launcher_that_are_not_there(monkeypatch) -> None:
    monkeypatch.setenv("FLAGS_selected_gpus", "1")
    with pytest.raises(InputError, match=r"the launcher chose GPU 1, but this Paddle .* --nproc_per_node N"):
        use_device()
    assert use_device("cpu") == "cpu"


@pytest.mark.parametrize("command", ["finetune", "predict", "merge"])
def test_the_launchers_flag_behind_the_script(command: str, capsys) -> None:
    words = ["--gpus", "0,1"] if command == "finetune" else ["--model_name_or_path", "a", "--gpus", "0,1"]
    words += ["--merge_model_path", "b"] if command == "merge" else []
    assert main([command, *words]) == 2
    assert "goes before the script: python -m paddle.distributed.launch --gpus 0,1" in capsys.readouterr().err
