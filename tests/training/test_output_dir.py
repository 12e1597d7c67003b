"""Nothing that a run did not make is lost to it, and nothing is removed before it is replaced."""

import json
import os
import shutil
from pathlib import Path

import pytest

from paddle_glm.checkpoint import is_complete
from paddle_glm.checkpoint.atomic_save import AtomicSave, write_manifest
from paddle_glm.errors import InputError
from paddle_glm.tiny.grammar import Row
from paddle_glm.training import output_dir
from paddle_glm.training.output_dir import STAGING_FOLDER, RunFolder, list_checkpoints, publish_final_model
from tests.training.finetune_helpers import finetune, losses, write_rows

FLAGS = """
    --do_train --src_length 24 --tgt_length 12 --per_device_train_batch_size 2 --logging_steps 1
    --save_steps 1 --disable_tqdm True --report_to none
"""
ANEW = "--overwrite_output_dir"
Words = list[object]


@pytest.fixture(scope="module")
def rows(tiny_rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"), tiny_rows[:20])


@pytest.fixture(scope="module")
def words(tiny_checkpoint: Path, rows: Path) -> Words:
    return ["--model_name_or_path", tiny_checkpoint, "--task_name_or_path", rows]


@pytest.fixture(scope="module")
def earlier(words: Words, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, a checkpoint of each. Do not write into it."""
    out = tmp_path_factory.mktemp("earlier") / "out"
    assert finetune(f"{FLAGS} --max_steps 3", *words, "--output_dir", out) == 0
    return out


@pytest.fixture
def out(earlier: Path, tmp_path: Path) -> Path:
    """A copy of it, and the folder of another program beside its checkpoints."""
    folder = tmp_path / "out"
    shutil.copytree(earlier, folder)
    (folder / "checkpoint-3000").mkdir()
    (folder / "checkpoint-3000" / "pytorch_model.bin").write_bytes(b"weights")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def numbers(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def refused(capfd: pytest.CaptureFixture[str], flags: str, *words: object) -> str:
    """The one line of a run that ends before anything is written."""
    capfd.readouterr()
    assert finetune(f"{FLAGS} {flags}", *words) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    return error


# What may remove an earlier run, and when.


@pytest.mark.parametrize(
    "mistake",
    [
        "--train_file nowhere.json",
        "--model_name_or_path nowhere",
        "--prompt_column none --response_column none",
        "--lora_path nowhere",
        "--lora True --lora_target_modules beauty",
        "--save_format onnx",
        "--do_eval --metric_for_best_model beauty --eval_steps 1",
    ],
)
def test_a_mistake_costs_nothing(words: Words, out: Path, capfd: pytest.CaptureFixture[str], mistake) -> None:
    before = tree(out)
    refused(capfd, f"--max_steps 2 {ANEW}", *words, "--output_dir", out, *mistake.split())
    after = tree(out)
    assert after == before


def test_the_new_run_replaces_the_old_one(words: Words, out: Path) -> None:
    assert finetune(f"{FLAGS} --max_steps 2 {ANEW}", *words, "--output_dir", out) == 0
    assert numbers(out) == [1, 2, 3000]
    assert [saved.run_number for saved in list_checkpoints(out)] == [2, 2]
    assert (out / "checkpoint-3000" / "pytorch_model.bin").read_bytes() == b"weights"
    assert len(losses(out)) == 2 and not list(out.glob("train_log.run*"))


def test_without_checkpoints_the_model_replaces_it(words: Words, out: Path) -> None:
    flags = f"{FLAGS} --max_steps 1 --save_strategy no {ANEW} --lora True"
    assert finetune(flags, *words, "--output_dir", out) == 0
    assert numbers(out) == [3000] and is_complete(out)
    assert {path.name for path in out.glob("*.safetensors")} == {"adapter_model.safetensors"}


def stopped(*_: object) -> None:
    raise InputError("stopped")


def test_stopped_in_its_first_save_the_old_run_goes_on(words: Words, out: Path, monkeypatch) -> None:
    """Twice; then without the flag the earlier run continues, with its own log."""
    before = tree(out)
    with monkeypatch.context() as patch:
        patch.setattr(AtomicSave, "commit", stopped)
        for _ in range(2):
            assert finetune(f"{FLAGS} --max_steps 3 {ANEW}", *words, "--output_dir", out) == 2
            after = tree(out)
            assert {name: after[name] for name in before if name != "train_log.jsonl"} == {
                name: before[name] for name in before if name != "train_log.jsonl"
            }
    history = losses(out)
    assert finetune(f"{FLAGS} --max_steps 4", *words, "--output_dir", out) == 0
    assert (
        numbers(out) == [1, 2, 3, 4, 3000]
        and [saved.run_number for saved in list_checkpoints(out)] == [1] * 4
    )
    assert len(losses(out)) == 4 and history != losses(out)
    assert [line + b"\n" for line in before["train_log.jsonl"].splitlines()] == [
        line + b"\n" for line in tree(out)["train_log.jsonl"].splitlines()[:3]
    ]


def test_stopped_behind_its_first_save_the_new_run_goes_on(words: Words, out: Path, monkeypatch) -> None:
    """The old run's checkpoints are still there then, one of a later step among them."""
    with monkeypatch.context() as patch:
        patch.setattr(output_dir, "remove_folder_atomically", stopped)
        assert finetune(f"{FLAGS} --max_steps 2 {ANEW}", *words, "--output_dir", out) == 2
    assert [(saved.run_number, saved.step) for saved in list_checkpoints(out)] == [(1, 2), (1, 3), (2, 1)]
    assert RunFolder(out).resume == out / "checkpoint-1"
    assert finetune(f"{FLAGS} --max_steps 2", *words, "--output_dir", out) == 0
    assert len(losses(out)) == 2
    assert [(saved.run_number, saved.step) for saved in list_checkpoints(out)] == [(1, 3), (2, 1), (2, 2)]


def test_earlier_runs_are_not_rotated(words: Words, out: Path) -> None:
    """A run that goes on from an older checkpoint is another run: the other one's newest stays."""
    old = tree(out / "checkpoint-3")
    flags = f"{FLAGS} --max_steps 2 --save_total_limit 1 --resume_from_checkpoint {out / 'checkpoint-1'}"
    assert finetune(flags, *words, "--output_dir", out) == 0
    assert [(saved.run_number, saved.step) for saved in list_checkpoints(out)] == [(1, 1), (1, 3), (2, 2)]
    assert tree(out / "checkpoint-3") == old
    assert RunFolder(out).resume == out / "checkpoint-2"


def test_files_put_into_a_checkpoint_stay(words: Words, out: Path) -> None:
    """Neither is their checkpoint removed, nor another written over it: that one is renamed."""
    for step in (1, 3):
        (out / f"checkpoint-{step}" / "merged").mkdir()
        (out / f"checkpoint-{step}" / "merged" / "model.safetensors").write_bytes(b"mine")
    assert finetune(f"{FLAGS} --max_steps 2 --save_total_limit 1 {ANEW}", *words, "--output_dir", out) == 0
    kept = ("checkpoint-1.kept", "checkpoint-3")
    assert all((out / name / "merged" / "model.safetensors").read_bytes() == b"mine" for name in kept)
    assert [(saved.run_number, saved.step) for saved in list_checkpoints(out)] == [(1, 3), (2, 2)]


def test_links_to_checkpoints_are_followed_and_kept(words: Words, out: Path, capfd) -> None:
    """A run continues from where a link leads; what lies there is neither removed nor written over."""
    elsewhere = out.parent / "elsewhere"
    (out / "checkpoint-3").rename(elsewhere)
    (out / "checkpoint-3").symlink_to(elsewhere)
    before = tree(elsewhere)
    assert RunFolder(out).resume == out / "checkpoint-3"
    assert "move it, or give" in refused(capfd, f"--max_steps 3 {ANEW}", *words, "--output_dir", out)
    assert finetune(f"{FLAGS} --max_steps 2 {ANEW}", *words, "--output_dir", out) == 0
    assert (out / "checkpoint-3").is_symlink() and tree(elsewhere) == before


def test_a_file_in_the_way_is_said_before_training(words: Words, tmp_path: Path, capfd) -> None:
    (tmp_path / "checkpoint-2").write_text("mine")
    assert "move it, or give another" in refused(capfd, "--max_steps 2", *words, "--output_dir", tmp_path)


# What a run starts from.


@pytest.mark.parametrize("way", ["absolute", "relative", "link"])
def test_what_it_starts_from_stays(words: Words, rows: Path, out: Path, monkeypatch, way: str) -> None:
    start = out / "checkpoint-3"
    before = tree(start)
    if way == "link":
        (out.parent / "link").symlink_to(start)
        start = out.parent / "link"
    monkeypatch.chdir(out.parent)
    given = "out/../out/checkpoint-3" if way == "relative" else start
    base = ["--model_name_or_path", given, *words[2:], "--output_dir", "out"]
    flags = f"{FLAGS} --max_steps 2 --save_total_limit 1"
    assert finetune(f"{flags} {ANEW}", *base) == 0
    assert numbers(out) == [2, 3, 3000] and tree(out / "checkpoint-3") == before
    # The same again, without the flag, continues this run and not the one that it starts from.
    assert finetune(flags, *base) == 0
    assert len(losses(out)) == 2 and tree(out / "checkpoint-3") == before
    # Alone in the folder it is no run to continue either, and is not written over without the flag.
    shutil.rmtree(out / "checkpoint-2")
    assert RunFolder(out, source_folders={"model_name_or_path": str(given)}).resume is None


@pytest.mark.parametrize("kind", ["--pre_seq_len 4", "--lora True"])
def test_an_adapter_that_it_starts_from_stays(words: Words, out: Path, kind: str) -> None:
    flag = "--lora_path" if "lora" in kind else "--ptuning_checkpoint"
    adapters = out.parent / "adapters"
    assert finetune(f"{FLAGS} --max_steps 2 {kind}", *words, "--output_dir", adapters) == 0
    before = tree(adapters / "checkpoint-2")
    start = [flag, adapters / "checkpoint-2", "--output_dir", adapters]
    assert finetune(f"{FLAGS} --max_steps 1 {ANEW} --save_total_limit 1", *words, *start) == 0
    assert numbers(adapters) == [1, 2] and tree(adapters / "checkpoint-2") == before
    assert len(losses(adapters)) == 1


def test_a_named_checkpoint_to_resume_from_stays(words: Words, out: Path) -> None:
    before = tree(out / "checkpoint-1")
    start = ["--resume_from_checkpoint", out / "checkpoint-1", "--output_dir", out]
    assert finetune(f"{FLAGS} --max_steps 3 --save_total_limit 1 {ANEW}", *words, *start) == 0
    assert tree(out / "checkpoint-1") == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (f"--max_steps 3 {ANEW} --model_name_or_path OUT/checkpoint-3", "would overwrite checkpoint-3"),
        ("--max_steps 3 --model_name_or_path OUT/checkpoint-3", "checkpoint-1 is an earlier run's"),
        (f"--max_steps 3000 --save_steps 3000 {ANEW}", "was not written by `paddle-glm finetune`"),
        ("--max_steps 3 --resume_from_checkpoint False", "checkpoint-1 is an earlier run's"),
        ("--max_steps 3 --resume_from_checkpoint OUT", "no complete checkpoint there"),
        ("--max_steps 4 --lora True", "trained all of a model, not LoRA"),
        ("--max_steps 4 --pre_seq_len 4", "trained all of a model, not a prefix"),
    ],
)
def test_what_must_not_be_replaced_is_said_before_training(words, out, capfd, flags, message) -> None:
    before = tree(out)
    flags = flags.replace("OUT", str(out))
    error = refused(capfd, flags.split(" --", 1)[0], *words, "--output_dir", out, *flags.split()[2:])
    assert message in error and tree(out) == before


# The model that is trained, in output_dir itself.


@pytest.mark.parametrize("method", ["", "--lora True", "--pre_seq_len 4"])
@pytest.mark.parametrize("link", [False, True])
def test_the_base_is_no_output_dir(tiny_checkpoint, words, tmp_path, capfd, method, link) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_checkpoint, base)
    before, named = tree(base), base
    if link:
        named = tmp_path / "link"
        named.symlink_to(base)
    flags = f"{FLAGS} --max_steps 1 --save_strategy no {ANEW} {method}"
    error = refused(capfd, flags, "--model_name_or_path", base, *words[2:], "--output_dir", named)
    assert "is --output_dir itself" in error and tree(base) == before


@pytest.mark.parametrize("kind", ["--pre_seq_len 4", "--lora True"])
def test_nor_is_an_adapter_to_go_on_from(words: Words, tmp_path: Path, capfd, kind: str) -> None:
    flags, flag = f"{FLAGS} --max_steps 1 --save_strategy no", "--lora_path"
    if "lora" not in kind:
        flag = "--ptuning_checkpoint"
    assert finetune(f"{flags} {kind}", *words, "--output_dir", tmp_path) == 0
    before = tree(tmp_path)
    assert "is --output_dir itself" in refused(capfd, flags, *words, flag, tmp_path, "--output_dir", tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model-00001-of-00002.bin", "config.json"])
def test_files_of_others_are_not_replaced(words: Words, tmp_path: Path, capfd, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    error = refused(capfd, "--max_steps 1", *words, "--output_dir", tmp_path)
    assert f"holds {name}, which no run" in error and tree(tmp_path) == {name: b"mine"}


def test_a_merged_model_is_not_replaced(tiny_checkpoint: Path, words: Words, tmp_path: Path, capfd) -> None:
    """This program wrote it, and its manifest, but no run did."""
    merged = tmp_path / "merged"
    shutil.copytree(tiny_checkpoint, merged)
    write_manifest(merged)
    before = tree(merged)
    assert "which no run" in refused(capfd, f"--max_steps 1 --lora {ANEW}", *words, "--output_dir", merged)
    assert tree(merged) == before


def test_other_files_stay(words: Words, out: Path) -> None:
    kept = ("model_backup.safetensors", "pytorch_model_mine.bin", "final", "notes.txt", "adapter_old.json")
    for name in kept:
        (out / name).write_bytes(b"mine")
    assert finetune(f"{FLAGS} --max_steps 1 {ANEW} --lora True", *words, "--output_dir", out) == 0
    assert all((out / name).read_bytes() == b"mine" for name in kept)
    assert not (out / "model.safetensors").exists() and not (out / "config.json").exists()


def model(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    write_manifest(folder)


@pytest.mark.parametrize("new", [{"a": "1", "b": "2"}, {"a": "1", "c": "3"}, {"c": "3"}])
def test_a_move_that_breaks_off_is_ended_by_the_next_run(tmp_path: Path, monkeypatch, new) -> None:
    """Broken off at every operation, the old model is not taken for whole once a file of it is gone."""
    for broken in range(20):
        out = tmp_path / f"{broken}"
        model(out, a="0", b="0")
        (out / "train_log.jsonl").touch()
        model(out / STAGING_FOLDER, **new)
        left = [broken]

        def counted(operation, left=left):
            def perform(*given, **named):
                left[0] -= 1
                if left[0] < 0:
                    raise OSError("broken off")
                return operation(*given, **named)

            return perform

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted(os.replace))
            patch.setattr(Path, "unlink", counted(Path.unlink))
            try:
                publish_final_model(out)
            except OSError:
                held = {name: (out / name).read_text() for name in "abc" if (out / name).is_file()}
                assert held in ({"a": "0", "b": "0"}, new) or not is_complete(out)
        finished = left[0] >= 0
        RunFolder(out).start()
        assert {name: (out / name).read_text() for name in "abc" if (out / name).is_file()} == new
        assert is_complete(out) and not (out / STAGING_FOLDER).exists()
        if finished:
            return
    raise AssertionError("it never came to its end")


def test_a_file_that_came_while_training_is_not_replaced(tmp_path: Path) -> None:
    model(tmp_path / STAGING_FOLDER, a="1", b="1")
    (tmp_path / "b").write_text("mine")
    with pytest.raises(
        InputError, match=r"holds b, which no run wrote there; the trained model is complete in"
    ):
        RunFolder(tmp_path).start()
    assert (tmp_path / "b").read_text() == "mine" and is_complete(tmp_path / STAGING_FOLDER)
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    RunFolder(tmp_path).start()
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "1"


def test_a_manifest_names_nothing_outside_its_folder(tmp_path: Path) -> None:
    outside, out = tmp_path / "mine", tmp_path / "out"
    outside.write_text("mine")
    model(out, a="0")
    (out / "train_log.jsonl").touch()
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["../mine"] = {"size": 4, "xxh3_128": ""}
    (out / "manifest.json").write_text(json.dumps(manifest))
    model(out / STAGING_FOLDER, a="1")
    RunFolder(out).start()
    assert outside.read_text() == "mine" and (out / "a").read_text() == "1"
