"""`paddle-glm quickstart`: every link of the chain once, on a small model, with what each one did.

Every link runs in a process of its own, by the command that is printed: the same one that a user types.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from paddle_glm.commands.evaluate import table
from paddle_glm.errors import InputError

HELP = "run the whole chain once: data, training, merging, scores, export, answers"
MARKER = ".paddle_glm_quickstart"
ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path("configs/tiny/quickstart.yaml")
PROCESSES = 2
LINKS = ("tiny", "before", "finetune", "plot", "merge", "after", "export", "infer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="quickstart", help="gets everything; made anew each time")
    parser.add_argument("--data", help="folder of real rows (train and dev files) instead of made ones")
    parser.add_argument("--max_steps", type=int, help=f"optimizer steps (default: what {CONFIG} says)")
    parser.add_argument("--eval_rows", type=int, default=100, help="held-out rows to score")
    parser.add_argument("--setup_seconds", type=float, help=argparse.SUPPRESS)


@dataclass(frozen=True)
class Link:
    """One command of the chain: what it is for, and its words."""

    purpose: str
    words: list[str]


@dataclass(frozen=True)
class Plan:
    """The folders and sizes of one quick start.

    Real rows have more words and longer texts than those of the grammar: they get a larger vocabulary
    and model, and longer sequences.
    """

    output: Path
    real_data: Path | None = None
    max_steps: int | None = None
    eval_rows: int = 100

    @property
    def data(self) -> Path:
        return self.real_data or self.output / "data"

    @property
    def lengths(self) -> list[str]:
        source, target = (96, 128) if self.real_data else (64, 64)
        return ["--src_length", f"{source}", "--tgt_length", f"{target}"]

    def link(self, name: str) -> Link:
        return getattr(self, name)()

    def path(self, name: str) -> str:
        return str(self.output / name)

    def tiny(self) -> Link:
        words = [*program(), "tiny", "--output_dir", str(self.output)]
        if self.real_data is None:
            return Link("a grammar makes rows, a tokenizer is trained, a small model is initialised", words)
        sizes = ["--vocab_size", "4000", "--hidden_size", "192", "--ffn_hidden_size", "512"]
        purpose = "a tokenizer is trained on the rows and a small model is initialised"
        return Link(purpose, [*words, "--data", str(self.real_data), *sizes])

    def score(self, model: str, target: str) -> list[str]:
        words = [
            *program(),
            "evaluate",
            "--model_name_or_path",
            self.path(model),
            "--data_file",
            str(self.data),
        ]
        rows = ["--limit", str(self.eval_rows), "--batch_size", "50"]
        return [*words, "--output_dir", self.path(target), *rows, *self.lengths]

    def before(self) -> Link:
        return Link("the untrained model answers held-out rows", self.score("model", "before"))

    def finetune(self) -> Link:
        launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(PROCESSES)]
        words = [*launch, "--log_dir", self.path("log/launch"), "tools/finetune_generation.py", str(CONFIG)]
        words += ["--model_name_or_path", self.path("model"), "--task_name_or_path", str(self.data)]
        words += ["--output_dir", self.path("trained"), *self.lengths]
        if self.max_steps is not None:
            words += ["--max_steps", f"{self.max_steps}", "--logging_steps", f"{min(self.max_steps, 10)}"]
        return Link(f"{PROCESSES} processes train one model together (tensor parallelism)", words)

    def plot(self) -> Link:
        return Link(
            "the loss curve, as numbers (step:loss) and as a picture",
            [*program(), "plot", "--log", self.path("trained"), "--output", self.path("loss.png")],
        )

    def merge(self) -> Link:
        words = [*program(), "merge", "--model_name_or_path", self.path("trained")]
        purpose = "the processes' shards become one checkpoint, laid out as on the hub"
        return Link(purpose, [*words, "--merge_model_path", self.path("merged")])

    def after(self) -> Link:
        words = [*self.score("merged", "after"), "--baseline", self.path("before/metrics.json")]
        return Link("the merged model answers the same rows", words)

    def export(self) -> Link:
        words = [*program(), "export", "--model_name_or_path", self.path("merged")]
        return Link(
            "the model becomes a static graph", [*words, "--output_path", self.path("exported/chatglm")]
        )

    def infer(self) -> Link:
        words = [*program(), "infer", "--model_path", self.path("exported"), *self.lengths]
        for question in self.questions(3):
            words += ["--prompt", question]
        return Link("Paddle Inference answers from the graph", words)

    def questions(self, count: int) -> Iterator[str]:
        """The first held-out questions."""
        from paddle_glm.training.readers import find_files, load_rows

        files = find_files(self.data)
        for example in load_rows(files.validation or files.train or self.data, limit=count):
            yield example.question[-1]["content"]


def run(args: argparse.Namespace) -> None:
    if not (ROOT / CONFIG).is_file():
        raise InputError("quickstart runs in a checkout of the repository: bash tools/quickstart.sh")
    if args.data and not Path(args.data).is_dir():
        raise InputError(f"--data {args.data}: expected a folder with train.json and dev.json")
    os.chdir(ROOT)
    plan = Plan(Path(args.output_dir), args.data and Path(args.data), args.max_steps, args.eval_rows)
    make_anew(plan.output)
    seconds = {} if args.setup_seconds is None else {"setup": args.setup_seconds}
    for number, name in enumerate(LINKS, start=1):
        link = plan.link(name)
        print(f"\n[{number}/{len(LINKS)}] {name}: {link.purpose}", flush=True)
        seconds[name] = run_link(name, link, plan.output)
    scores = {
        name: json.loads(Path(plan.path(f"{name}/metrics.json")).read_text(encoding="utf-8"))
        for name in ("before", "after")
    }
    summary = json.dumps({"seconds": seconds, **scores}, indent=2)
    Path(plan.path("summary.json")).write_text(summary + "\n", encoding="utf-8")
    print(farewell(plan, seconds, scores))


def program() -> list[str]:
    """The installed `paddle-glm`, else the same from this checkout."""
    installed = Path(sys.executable).with_name("paddle-glm")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "paddle_glm.main"]


def make_anew(folder: Path) -> None:
    """An empty, marked folder; raises InputError rather than remove what a quick start did not make."""
    if folder.exists():
        if not (folder / MARKER).is_file():
            raise InputError(f"{folder} was not made by a quick start: move it, or give another --output_dir")
        shutil.rmtree(folder)
    (folder / "log").mkdir(parents=True)
    (folder / MARKER).touch()


def run_link(name: str, link: Link, output: Path) -> float:
    """Runs a link, shows what it prints (for training, the loss), and returns its seconds.

    What it logs goes to `log/NAME.log`. Raises InputError with the log's end where it fails.
    """
    print("  $ " + shown(link.words), flush=True)
    log = output / "log" / f"{name}.log"
    environment = dict(os.environ)
    if name == "finetune":  # the processes share the cores; without this each takes them all
        environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // PROCESSES, 1)))
    started = time.perf_counter()
    with log.open("wb") as errors:
        out = errors if name == "finetune" else subprocess.PIPE
        process = subprocess.Popen(link.words, stdout=out, stderr=errors, env=environment)
        try:
            follow(process, output / "trained" / "train_log.jsonl")
            code = process.wait()
        except BaseException:
            process.terminate()
            raise
    if code != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise InputError(f"{name} failed with exit code {code}; the end of {log}:\n{tail}")
    seconds = round(time.perf_counter() - started, 1)
    print(f"  done in {seconds} s", flush=True)
    return seconds


def follow(process: subprocess.Popen, train_log: Path) -> None:
    """Prints a process's output while it runs; that of training is its loss, every few seconds."""
    if process.stdout is not None:
        for line in process.stdout:
            print("  " + line.decode("utf-8", errors="replace").rstrip(), flush=True)
        return
    from paddle_glm.training.curve import read_records

    shown_step, ended = 0, False
    while not ended:
        try:
            process.wait(timeout=1)
            ended = True
        except subprocess.TimeoutExpired:
            pass
        records = read_records(train_log) if train_log.is_file() else []
        losses = [record for record in records if "loss" in record]
        for record in losses:
            # Every 50 steps is enough to watch, and the last one.
            due = record["step"] % 50 == 0 or (ended and record is losses[-1])
            if due and record["step"] > shown_step:
                shown_step = record["step"]
                print("  " + progress(record), flush=True)


def progress(record: Mapping[str, float]) -> str:
    """A line of train_log.jsonl for people."""
    return f"step {record['step']:>4}  loss {record['loss']:.3f}  {record['tokens_per_second']:.0f} tokens/s"


def shown(words: list[str]) -> str:
    """A command as one types it in the checkout."""
    here = str(ROOT) + os.sep
    return shlex.join(word.removeprefix(here) for word in words)


def farewell(plan: Plan, seconds: Mapping[str, float], scores: Mapping[str, Mapping[str, float]]) -> str:
    """How long everything took, what was learnt, and how to go on."""
    command = shown(program())
    total = sum(seconds.values())
    times = [f"  {name:<10}{value:>8.1f} s" for name, value in [*seconds.items(), ("total", total)]]
    question = shlex.quote(next(plan.questions(1)))
    going_on = [
        f"{command} chat --model_name_or_path {plan.path('merged')}",
        f"{command} infer --model_path {plan.path('exported')} --prompt {question}",
        f"{command} predict --model_name_or_path {plan.path('trained')} --data_file YOUR_ROWS.json",
        "bash tools/quickstart.sh --data FOLDER_WITH_TRAIN_AND_DEV_JSON",
        f"{command} --help",
    ]
    table_lines = [f"  {line}" for line in table(scores["after"], scores["before"]).splitlines()]
    names = ("loss.png", "after/generated_predictions.txt", "summary.json")
    sections = {
        "Time": times,
        "Scores on held-out rows": table_lines,
        "To look at": [f"  {plan.path(name)}" for name in names],
        "To go on": [f"  {line}" for line in going_on],
    }
    return "\n".join(line for title, lines in sections.items() for line in ("", title, *lines))
