"""What an error message advises is there, and leads on: flags by their names, advice by following it."""

import ast
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from paddle_glm.commands import estimate_memory
from paddle_glm.main import Parser, command_names, load_command, main
from paddle_glm.tiny.grammar import Row
from paddle_glm.training.command_line import known_flag_names
from tests.paths import ROOT
from tests.training.finetune_helpers import write_rows

FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9_-]*)")
# Flags of other programs that messages and commands name.
OTHERS = {
    *("nproc_per_node", "log_dir", "gpus"),  # paddle.distributed.launch
    *("model_dir", "input_file", "chat"),  # paddle_glm_infer
    *("local-dir", "local_dir"),  # what fetches from the hubs
    *("query-gpu", "format"),  # nvidia-smi
    "logdir",  # visualdl
    "version",
}


def flags_by_command() -> dict[str, set[str]]:
    """The flags of every command, without their dashes."""
    found = {}
    for name in command_names():
        command = load_command(name)
        if hasattr(command, "add_arguments"):
            parser = Parser()
            command.add_arguments(parser)
            found[name] = set(parser._option_string_actions)
    found["estimate-memory"] = set(estimate_memory._parser()._option_string_actions)
    found = {name: {flag.removeprefix("--") for flag in flags} for name, flags in found.items()}
    found["finetune"] = known_flag_names()
    found["ptuning"] = known_flag_names() | {"do_predict", "test_file"}
    return found


def texts(tree: ast.AST) -> Iterator[str]:
    """String constants, docstrings left out."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def test_flags_that_are_named_exist() -> None:
    known = {flag.replace("-", "_") for flags in flags_by_command().values() for flag in flags} | OTHERS
    for path in (ROOT / "paddle_glm").rglob("*.py"):
        for text in texts(ast.parse(path.read_text(encoding="utf-8"))):
            unknown = set(FLAG.findall(text)) - known
            assert not unknown, (path, text, unknown)


def test_a_commands_own_messages_name_its_own_flags() -> None:
    flags = flags_by_command()
    for path in (ROOT / "paddle_glm" / "commands").glob("[a-z]*.py"):
        own = flags[path.stem.replace("_", "-")] | OTHERS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError":
                message = "".join(texts(node))
                assert set(FLAG.findall(message)) <= own, (path, message)


@dataclass(frozen=True)
class Advice:
    """A command that fails, what its message says, and commands that follow what it advises.

    Words in capitals are paths: see `places`. HINT stands for the flags that the message itself gives.
    """

    name: str
    wrong: str
    message: str
    followed: tuple[str, ...]
    prepare: Callable[[dict[str, Path]], object] = lambda places: None


def more_rows_per_step(name: str) -> Callable[[dict[str, Path]], object]:
    """A checkpoint as a run with twice as many rows per optimizer step would have written it."""

    def write(places: dict[str, Path]) -> None:
        schedule = places[name] / "checkpoint-1" / "schedule.json"
        text = schedule.read_text(encoding="utf-8")
        values = json.loads(text)
        shape = values["epoch_shape"]
        shape.update(rows_per_step=2 * shape["rows_per_step"], steps_per_epoch=shape["steps_per_epoch"] // 2)
        schedule.write_text(json.dumps(values).ljust(len(text)), encoding="utf-8")  # the same size

    return write


def foreign(places: dict[str, Path]) -> None:
    (places["NEW"] / "checkpoint-1").mkdir(parents=True)
    (places["NEW"] / "checkpoint-1" / "pytorch_model.bin").touch()


def two_train_files(places: dict[str, Path]) -> None:
    shutil.copytree(places["ROWS"], places["NEW"])
    shutil.copy(places["NEW"] / "train.json", places["NEW"] / "train.jsonl")


def other_columns(places: dict[str, Path]) -> None:
    places["NEW"].mkdir()
    text = '{"frage": "a", "antwort": "b"}\n' * 4
    (places["NEW"] / "train.json").write_text(text, encoding="utf-8")


RUN = (
    "finetune --do_train --max_steps 1 --save_steps 1 --src_length 24 --tgt_length 8 --disable_tqdm True "
    "--per_device_train_batch_size 2 --report_to none --task_name_or_path ROWS --model_name_or_path BASE"
)
LORA = f"{RUN} --lora True"
PREDICT = "predict --predict_file FILE --tgt_length 2"
ADVICE = (
    Advice(
        "other rows per step",
        f"{RUN} --output_dir OUT",
        "give --gradient_accumulation_steps 2",
        (f"{RUN} --output_dir OUT HINT",),
        more_rows_per_step("OUT"),
    ),
    Advice(
        "other training",
        f"{LORA} --output_dir OUT",
        "give its flags, or another --output_dir, or --overwrite_output_dir to start anew",
        (
            f"{RUN} --output_dir OUT",
            f"{LORA} --output_dir NEW",
            f"{LORA} --output_dir OUT --overwrite_output_dir",
        ),
    ),
    Advice(
        "start in the way",
        f"{RUN} --model_name_or_path OUT/checkpoint-1 --output_dir OUT --overwrite_output_dir",
        "give another --output_dir",
        (f"{RUN} --model_name_or_path OUT/checkpoint-1 --output_dir NEW --overwrite_output_dir",),
    ),
    Advice(
        "earlier run",
        f"{RUN} --resume_from_checkpoint False --output_dir OUT",
        "give another --output_dir, or --overwrite_output_dir",
        (
            f"{RUN} --resume_from_checkpoint False --output_dir NEW",
            f"{RUN} --resume_from_checkpoint False --output_dir OUT --overwrite_output_dir",
        ),
    ),
    Advice(
        "another program's folder",
        f"{RUN} --output_dir NEW",
        "move it, or give another --output_dir",
        (f"{RUN} --output_dir NEW/other",),
        foreign,
    ),
    Advice(
        "base as output",
        f"{LORA} --model_name_or_path OUT --output_dir OUT",
        "give another --output_dir",
        (f"{LORA} --model_name_or_path OUT --output_dir NEW",),
    ),
    Advice(
        "nothing to resume",
        f"{RUN} --resume_from_checkpoint True --output_dir NEW",
        "leave the flag out to start anew",
        (f"{RUN} --output_dir NEW",),
    ),
    Advice(
        "no checkpoint",
        f"{RUN} --resume_from_checkpoint OUT --output_dir NEW",
        "give a checkpoint-N folder of `paddle-glm finetune`, or leave the flag out",
        (
            f"{RUN} --resume_from_checkpoint OUT/checkpoint-1 --output_dir NEW",
            f"{RUN} --output_dir NEW/other",
        ),
    ),
    Advice(
        "another rank",
        f"{LORA} --lora_rank 2 --output_dir ADAPTER",
        "give the flags it was trained with",
        (f"{LORA} --output_dir ADAPTER",),
    ),
    Advice(
        "integers",
        f"{RUN} --quantization_bit 8 --output_dir NEW",
        "give --lora True or --pre_seq_len N to train an adapter, or a float model",
        (
            f"{LORA} --quantization_bit 8 --output_dir NEW/lora",
            f"{RUN} --pre_seq_len 4 --quantization_bit 8 --output_dir NEW/prefix",
            f"{RUN} --output_dir NEW/float",
        ),
    ),
    Advice(
        "format of an adapter",
        f"{LORA} --save_format bin --output_dir NEW",
        "leave it out with an adapter",
        (f"{LORA} --output_dir NEW",),
    ),
    Advice(
        "files to choose from",
        f"{RUN} --task_name_or_path NEW --output_dir NEW/out",
        "give the file itself in place of the folder, or (finetune) --train_file too",
        (
            f"{RUN} --task_name_or_path NEW/train.jsonl --output_dir NEW/out",
            f"{RUN} --task_name_or_path NEW --train_file NEW/train.json --output_dir NEW/other",
        ),
        two_train_files,
    ),
    Advice(
        "columns",
        f"{RUN} --task_name_or_path NEW --output_dir NEW/out",
        "name them with --prompt_column and --response_column",
        (
            f"{RUN} --task_name_or_path NEW --output_dir OUT --overwrite_output_dir --prompt_column frage "
            "--response_column antwort",
        ),
        other_columns,
    ),
    Advice(
        "no model",
        f"{PREDICT} --model_name_or_path ADAPTER",
        "has no model, only an adapter: give --model_name_or_path",
        (f"{PREDICT} HINT",),
    ),
    Advice(
        "merge of what is not written",
        f"{PREDICT} --model_name_or_path BASE --quantization_bit 8 --merge_tensor_parallel_path NEW/merged",
        "run `paddle-glm quantize` first",
        (
            "quantize --model_name_or_path BASE --bits 8 --output_path NEW/int8",
            f"{PREDICT} --model_name_or_path NEW/int8 --merge_tensor_parallel_path NEW/merged",
        ),
    ),
    Advice(
        "merge of adapters",
        f"{PREDICT} --model_name_or_path BASE --lora_path ADAPTER --merge_tensor_parallel_path NEW/merged",
        "leave it out (paddle-glm merge-lora folds adapters in)",
        (
            f"{PREDICT} --model_name_or_path BASE --lora_path ADAPTER",
            "merge-lora --model_name_or_path BASE --lora_path ADAPTER --merge_model_path NEW/merged",
        ),
    ),
    Advice(
        "quantised twice",
        f"{PREDICT} --model_name_or_path INT8 --quantization_bit 4",
        "pass its float model to quantise it differently, or omit the quantization flags",
        (f"{PREDICT} --model_name_or_path BASE --quantization_bit 4", f"{PREDICT} --model_name_or_path INT8"),
        lambda places: main(
            f"quantize --model_name_or_path {places['BASE']} --bits 8 --output_path {places['INT8']}".split()
        ),
    ),
    *(
        Advice(
            f"{command} onto a folder",
            f"{command} --model_name_or_path BASE {flag} NEW",
            "choose another folder or pass --overwrite",
            (
                f"{command} --model_name_or_path BASE {flag} INT8",
                f"{command} --model_name_or_path BASE {flag} NEW --overwrite",
            ),
            lambda places: shutil.copytree(places["BASE"], places["NEW"]),
        )
        for command, flag in (
            ("merge", "--merge_model_path"),
            ("convert", "--output_path"),
            ("quantize", "--output_path"),
        )
    ),
)


@pytest.fixture(scope="module")
def trained(tiny_checkpoint: Path, tiny_rows: list[Row], tmp_path_factory) -> dict[str, Path]:
    """Runs that have ended, all of a model and LoRA; do not write into them."""
    folder = tmp_path_factory.mktemp("trained")
    places = {"BASE": tiny_checkpoint, "ROWS": write_rows(folder / "rows", tiny_rows[:16], dev=4)}
    places |= {"OUT": folder / "out", "ADAPTER": folder / "adapter"}
    assert main(words(f"{RUN} --output_dir OUT", places)) == 0
    assert main(words(f"{LORA} --output_dir ADAPTER", places)) == 0
    return places


@pytest.fixture
def places(trained: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Paths of one test, copies of the runs among them."""
    own = {name: tmp_path / name.lower() for name in ("OUT", "ADAPTER")}
    for name, path in own.items():
        shutil.copytree(trained[name], path)
    return {
        **trained,
        **own,
        "NEW": tmp_path / "new",
        "INT8": tmp_path / "int8",
        "FILE": tmp_path / "answers",
    }


def words(command: str, places: dict[str, Path]) -> list[str]:
    """Where a flag stands twice, the last one counts."""
    return [
        re.sub(r"^[A-Z0-9]{3,}\b", lambda m: str(places.get(m[0], m[0])), word) for word in command.split()
    ]


@pytest.mark.parametrize("advice", ADVICE, ids=lambda advice: advice.name)
def test_advice_leads_on(advice: Advice, places: dict[str, Path], capfd) -> None:
    advice.prepare(places)
    capfd.readouterr()
    assert main(words(advice.wrong, places)) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert advice.message in error
    hint = " ".join(re.findall(r"--[a-z_]+ [^\s()]+", error))
    for command in advice.followed:
        assert main(words(command.replace("HINT", hint), places)) == 0, capfd.readouterr().err
