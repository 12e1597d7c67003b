"""The steps of the quick start: commands, order, folders."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paddle_glm.system import LINUX

METHODS = ("full", "lora", "ptuning")
NUM_PROCESSES = 2 if LINUX else 1
TRAINING_PHRASE, TENSOR_PARALLEL_PHRASE = (
    (f"{NUM_PROCESSES} processes train", " together (tensor parallelism)")
    if LINUX
    else ("one process trains", "")
)
ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path("configs/tiny/quickstart.yaml")
# How an adapter is trained, and the flag that passes it to other commands.
ADAPTER_CONFIGS = {"lora": Path("configs/tiny/lora.yaml"), "ptuning": Path("configs/tiny/prefix.yaml")}
ADAPTER_FLAGS = {"lora": "--lora_path", "ptuning": "--ptuning_checkpoint"}
CPP_PROGRAM = "cpp_infer/build/paddle_glm_infer"
# Questions to both programs that run the graph, and their answers, one {src, output} per line.
NUM_QUESTIONS, QUESTIONS_FILE = 3, "questions.json"
PYTHON_ANSWERS, CPP_ANSWERS = "answers/python.jsonl", "answers/cpp.jsonl"


@dataclass(frozen=True)
class QuickstartStep:
    """One command of the chain: name, purpose, argument vector.

    run_dir: output folder of a training run, whose losses are shown instead of its output. optional: a
    requirement may be missing on a machine; then this step and all later ones are skipped.
    """

    name: str
    purpose: str
    argv: list[str]
    run_dir: Path | None = None
    optional: bool = False


@dataclass(frozen=True)
class QuickstartPlan:
    """Folders and sizes of one quick start, and the steps that follow from them.

    Real rows have more words and longer texts than generated ones: they get a larger vocabulary, a larger
    model and longer sequences.
    """

    output: Path
    real_data: Path | None = None
    max_steps: int | None = None
    eval_rows: int = 100
    method: str = "full"
    bits: int | None = None

    @property
    def data(self) -> Path:
        """The training data of the base model."""
        return self.real_data or self.output / "data"

    @property
    def task(self) -> Path:
        """The evaluated data; with generated rows, adapters learn the style of one shop."""
        return self.data if self.method == "full" else self.real_data or self.output / "shop"

    @property
    def lengths(self) -> list[str]:
        source, target = (96, 128) if self.real_data else (64, 64)
        return ["--src_length", f"{source}", "--tgt_length", f"{target}"]

    @property
    def base(self) -> str:
        """Name of the model folder that an adapter is trained on."""
        return f"base_int{self.bits}" if self.bits else "base"

    @property
    def model_flags(self) -> list[str]:
        """The flags of the model that is exported, with its adapter."""
        if self.method == "full":
            return ["--model_name_or_path", self.path(f"merged_int{self.bits}" if self.bits else "merged")]
        if self.method == "lora" and not self.bits:
            return ["--model_name_or_path", self.path("merged")]
        return self.adapted_model_flags

    @property
    def adapted_model_flags(self) -> list[str]:
        adapter = [ADAPTER_FLAGS[self.method], self.path("trained")]
        return ["--model_name_or_path", self.path(self.base), *adapter]

    @property
    def evaluation_names(self) -> list[str]:
        """Names of the evaluation steps; each writes its scores to a folder of that name."""
        return [step.name for step in self.steps() if "evaluate" in step.argv]

    def path(self, name: str) -> str:
        return str(self.output / name)

    def steps(self) -> list[QuickstartStep]:
        """All steps in order; the last ones need `write_questions` after the step `tiny`."""
        return list(self._steps())

    def _steps(self) -> Iterator[QuickstartStep]:
        yield self._tiny()
        yield from self._full() if self.method == "full" else self._adapter()
        yield QuickstartStep(
            "export",
            "the model becomes a static graph",
            [*program("export"), *self.model_flags, "--output_path", self.path("exported/chatglm")],
        )
        yield self._infer()
        yield from self._cpp()

    def _tiny(self) -> QuickstartStep:
        words = [*program("tiny"), "--output_dir", str(self.output)]
        if self.real_data is None:
            purpose = "a grammar makes rows, a tokenizer is trained, a small model is initialised"
            return QuickstartStep("tiny", purpose, words)
        sizes = ["--vocab_size", "4000", "--hidden_size", "192", "--ffn_hidden_size", "512"]
        purpose = "a tokenizer is trained on the rows and a small model is initialised"
        return QuickstartStep("tiny", purpose, [*words, "--data", str(self.real_data), *sizes])

    def _full(self) -> Iterator[QuickstartStep]:
        yield self._score("before", "the untrained model answers held-out rows", self._model("model"))
        purpose = f"{TRAINING_PHRASE} one model{TENSOR_PARALLEL_PHRASE}"
        yield self._train("finetune", purpose, CONFIG, "model", self.data, "trained")
        yield self._plot()
        yield self._merge("trained", "merged")
        yield self._score("after", "the merged model answers the same rows", self._model("merged"), "before")
        if self.bits:
            yield self._quantize("merged")
            purpose = f"its weights are numbers of {self.bits} bits; the same rows again"
            model = self._model(f"merged_int{self.bits}")
            yield self._score(f"after_int{self.bits}", purpose, model)

    def _adapter(self) -> Iterator[QuickstartStep]:
        purpose = f"{TRAINING_PHRASE} the model that is to be adapted{TENSOR_PARALLEL_PHRASE}"
        yield self._train("base", purpose, CONFIG, "model", self.data, "base_shards")
        yield self._merge("base_shards", "base")
        if self.bits:
            yield self._quantize("base")
        purpose = "the base answers held-out rows of the task"
        yield self._score("before", purpose, self._model(self.base))
        kind = "a prefix" if self.method == "ptuning" else "LoRA adapters"
        purpose = (
            f"{kind} alone learn{'s' if self.method == 'ptuning' else ''} the task; the base stays as it is"
        )
        yield self._train("finetune", purpose, ADAPTER_CONFIGS[self.method], self.base, self.task, "trained")
        yield self._plot()
        yield self._score(
            "after", f"the base with {kind} answers the same rows", self.adapted_model_flags, "before"
        )
        if self.method == "lora" and not self.bits:
            words = [
                *program("merge-lora"),
                *self.adapted_model_flags,
                "--merge_model_path",
                self.path("merged"),
            ]
            yield QuickstartStep("merge_lora", "the adapters are added to the weights beside them", words)

    def _train(
        self, name: str, purpose: str, config: Path, model: str, rows: Path, target: str
    ) -> QuickstartStep:
        words = [sys.executable]
        if NUM_PROCESSES > 1:
            words += ["-m", "paddle.distributed.launch", "--nproc_per_node", str(NUM_PROCESSES)]
            words += ["--log_dir", self.path(f"log/{name}")]
        words += ["tools/finetune_generation.py", str(config)]
        words += [*self._model(model), "--task_name_or_path", str(rows), "--output_dir", self.path(target)]
        words += ["--tensor_parallel_degree", str(NUM_PROCESSES), *self.lengths]
        if self.max_steps is not None:
            words += ["--max_steps", f"{self.max_steps}", "--logging_steps", f"{min(self.max_steps, 10)}"]
        return QuickstartStep(name, purpose, words, run_dir=Path(self.path(target)))

    def _plot(self) -> QuickstartStep:
        words = [*program("plot"), "--log", self.path("trained"), "--output", self.path("loss.png")]
        return QuickstartStep("plot", "the loss curve, as numbers (step:loss) and as a picture", words)

    def _merge(self, shards: str, target: str) -> QuickstartStep:
        words = [*program("merge"), *self._model(shards), "--merge_model_path", self.path(target)]
        return QuickstartStep(
            "merge", "the processes' shards become one checkpoint, laid out as on the hub", words
        )

    def _quantize(self, model: str) -> QuickstartStep:
        words = [*program("quantize"), *self._model(model), "--bits", f"{self.bits}"]
        words += ["--output_path", self.path(f"{model}_int{self.bits}")]
        return QuickstartStep("quantize", f"weights become numbers of {self.bits} bits with scales", words)

    def _score(
        self, name: str, purpose: str, model: list[str], baseline: str | None = None
    ) -> QuickstartStep:
        words = [*program("evaluate"), *model, "--data_file", str(self.task)]
        words += ["--output_dir", self.path(name), "--limit", str(self.eval_rows), "--batch_size", "50"]
        words += self.lengths
        if baseline is not None:
            words += ["--baseline", self.path(f"{baseline}/metrics.json")]
        return QuickstartStep(name, purpose, words)

    def _infer(self) -> QuickstartStep:
        words = [*program("infer"), "--model_path", self.path("exported")]
        words += ["--data_file", self.path(QUESTIONS_FILE), "--output_file", self.path(PYTHON_ANSWERS)]
        words += ["--batch_size", f"{NUM_QUESTIONS}", "--src_length", "512", *self.lengths[2:]]
        return QuickstartStep("infer", "Paddle Inference answers from the graph", words)

    def _cpp(self) -> Iterator[QuickstartStep]:
        if not LINUX:
            return
        purpose = "what the C++ program is built with"
        yield QuickstartStep("setup_cpp", purpose, ["bash", "tools/setup_cpp.sh"], optional=True)
        yield QuickstartStep(
            "build_cpp",
            "the C++ program is compiled",
            ["bash", "tools/build_cpp.sh", *_python_cmake_options()],
        )
        words = [CPP_PROGRAM, "--model_dir", self.path("exported")]
        words += ["--input_file", self.path(QUESTIONS_FILE), "--output_file", self.path(CPP_ANSWERS)]
        words += ["--batch_size", f"{NUM_QUESTIONS}", "--max_new_tokens", self.lengths[-1]]
        yield QuickstartStep("cpp", "the C++ program answers the same questions from the same graph", words)

    def write_questions(self) -> None:
        """Write the first held-out questions, for both programs that run the graph."""
        from paddle_glm.data.data_files import find_data_files, load_examples

        files = find_data_files(self.task)
        examples = load_examples(files.validation or files.train or self.task, limit=NUM_QUESTIONS)
        rows = [{"content": example.prompt_messages[-1]["content"]} for example in examples]
        path = Path(self.path(QUESTIONS_FILE))
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    def _model(self, name: str) -> list[str]:
        return ["--model_name_or_path", self.path(name)]


def program(command: str) -> list[str]:
    """The argument vector of a command: of the installed `paddle-glm`, else of this checkout."""
    installed = Path(shutil.which("paddle-glm", path=str(Path(sys.executable).parent)) or "")
    words = [str(installed)] if installed.is_file() else [sys.executable, "-m", "paddle_glm.main"]
    return [*words, command]


def _python_cmake_options() -> list[str]:
    """CMake options to link the Paddle of this Python, if it is not that of the checkout's .venv."""
    in_venv = Path(sys.prefix).resolve() == (ROOT / ".venv").resolve()
    return [] if in_venv else [f"-DPADDLE_GLM_PYTHON={sys.executable}"]
