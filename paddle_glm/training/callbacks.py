"""Training callbacks: throughput and memory, the JSON lines log, the VisualDL log, progress."""

import json
import time
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor
from paddlenlp.trainer import TrainerCallback

from paddle_glm.parallel import ProcessGroup
from paddle_glm.parallel.collectives import all_reduce
from paddle_glm.parallel.watchdog import Watchdog
from paddle_glm.system import peak_resident_bytes
from paddle_glm.training.loss_curve import LOG_FILE


def peak_memory_mb() -> float:
    """Peak memory of this process in MiB: allocated GPU memory on a GPU, resident memory on a CPU."""
    if paddle.get_device() != "cpu":
        return paddle.device.cuda.max_memory_allocated() / 2**20
    return peak_resident_bytes() / 2**20


class ThroughputCallback(TrainerCallback):
    """Adds `tokens_per_second` and `peak_memory_mb` to the log.

    Only time within optimizer steps counts, not evaluation and saving. Padding is not counted; tokens are
    summed over data-parallel processes.
    """

    def __init__(self, data_group: ProcessGroup) -> None:
        self._data_group = data_group
        self._tokens: Tensor | None = None
        self._seconds = 0.0
        self._started = 0.0

    def add_tokens(self, tokens: Tensor) -> None:
        """tokens: a batch's token count, an integer scalar; read at logging time, not to wait for a GPU."""
        self._tokens = tokens if self._tokens is None else self._tokens + tokens

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._seconds += time.perf_counter() - self._started

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        if "loss" not in logs or self._tokens is None or self._seconds == 0.0:
            return
        tokens = self._tokens.astype("int64").reshape([1])
        if self._data_group.degree > 1:
            tokens = all_reduce(tokens, self._data_group)
        logs["tokens_per_second"] = round(int(tokens) / self._seconds, 1)
        logs["peak_memory_mb"] = round(peak_memory_mb(), 1)
        self._tokens, self._seconds = None, 0.0


class LogFileCallback(TrainerCallback):
    """Rank 0 appends log entries to `train_log.jsonl` in output_dir, one JSON object per line.

    A resumed run continues the file, without the lines after the step that it resumes from.
    """

    _LOGGED_KEYS = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "peak_memory_mb")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._path = Path(args.output_dir) / LOG_FILE
        kept = []
        if state.global_step and self._path.is_file():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
        self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        if not state.is_world_process_zero or not hasattr(self, "_path"):
            return
        if "loss" in logs:
            record = {key: logs[key] for key in self._LOGGED_KEYS if key in logs}
        else:
            record = {key: value for key, value in logs.items() if key.startswith(("eval_", "test_"))}
        if record:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **record}) + "\n")


class VisualDLCallback(TrainerCallback):
    """Rank 0 writes scalars for VisualDL (`visualdl --logdir OUTPUT_DIR/runs`)."""

    _writer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            from visualdl import LogWriter

            self._writer = LogWriter(logdir=args.logging_dir)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        if self._writer is None:
            return
        for name, value in logs.items():
            if isinstance(value, (int, float)):
                split, _, rest = name.partition("_")
                tag = f"{split}/{rest}" if split in ("eval", "test") else f"train/{name}"
                self._writer.add_scalar(tag, value, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class ProgressCallback(TrainerCallback):
    """Tells the watchdog how far training is; only steps are expected to take about as long as others."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._steps, self._longest, self._began = 0, 0.0, 0.0

    def _tick(self) -> None:
        # The first step also compiles, allocates and opens connections.
        self._watchdog.tick(self._longest if self._steps >= 2 else None)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.monotonic()
        self._tick()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tick()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._steps += 1
        if self._steps > 1:
            self._longest = max(self._longest, time.monotonic() - self._began)
        if control.should_save or control.should_evaluate or control.should_training_stop:
            self._watchdog.tick()
        else:
            self._tick()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._watchdog.tick()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._watchdog.tick()
