"""`finetune --help`: every supported flag under a heading, none of the refused ones; Paddle is not loaded."""

import re
import subprocess
import sys
from dataclasses import MISSING, fields

import pytest
from paddlenlp.trainer import TrainingArguments

from paddle_glm.errors import InputError
from paddle_glm.main import main
from paddle_glm.training.arguments import DataArguments, FinetuneArguments
from paddle_glm.training.command_line import ALIASES, parse_finetune_args
from paddle_glm.training.flag_fields import FLAG_GROUPS
from paddle_glm.training.flag_requirements import ALWAYS_EFFECTIVE, FLAG_REQUIREMENTS, UNSUPPORTED_FLAGS
from paddle_glm.training.model_arguments import ModelArguments
from paddle_glm.training.thudm_flags import INEFFECTIVE_FLAGS, to_finetune_argv
from tests.paths import ROOT

LISTED = {
    item.name: item for cls in (ModelArguments, DataArguments, FinetuneArguments) for item in fields(cls)
}
LEAST = ["--model_name_or_path", "M", "--output_dir", "out"]


def sections(command: str, capsys) -> dict[str, dict[str, str]]:
    """{heading: {flag: its text}}, of what the command prints for --help."""
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert not end.value.code
    found: dict[str, dict[str, str]] = {}
    entries: dict[str, str] = {}
    _, _, listed = capsys.readouterr().out.partition("\noptions:\n")
    for line in listed.splitlines():
        if heading := re.fullmatch(r"(\S.*):", line):
            entries = found.setdefault(heading[1], {})
        elif flag := re.match(r"  --(\w+)", line):
            assert flag[1] not in entries
            entries[flag[1]] = line
        elif entries:
            entries[next(reversed(entries))] += " " + line.strip()
    return found


def test_every_supported_flag_is_listed_once_with_a_text_and_its_default(capsys):
    found = sections("finetune", capsys)
    assert tuple(found) == FLAG_GROUPS
    names = [name for entries in found.values() for name in entries]
    assert sorted(names) == sorted(LISTED)
    assert set(names) == set(FLAG_REQUIREMENTS) | ALWAYS_EFFECTIVE
    assert not set(names) & set(UNSUPPORTED_FLAGS)
    for name, entry in ((name, entry) for entries in found.values() for name, entry in entries.items()):
        assert "(default: " in entry or "(required)" in entry, name
        assert len(LISTED[name].metadata["help"].split()) > 1 or name == "do_train", name


def test_names_of_thudm_stand_beside_ours(capsys):
    entries = {name: text for found in sections("finetune", capsys).values() for name, text in found.items()}
    for alias, name in ALIASES.items():
        assert f"--{alias}" in entries[name]


def test_ptuning_lists_the_same_flags_with_the_defaults_of_main_py(capsys):
    found = sections("ptuning", capsys)
    assert set(found.pop("accepted without effect")) == set(INEFFECTIVE_FLAGS)
    assert tuple(found) == FLAG_GROUPS
    entries = {name: text for part in found.values() for name, text in part.items()}
    assert set(entries) == set(LISTED)
    argv = to_finetune_argv([*LEAST, "--do_train", "--do_eval"], on_gpu=False)
    for arguments in parse_finetune_args(argv):
        for item in fields(arguments):
            value = getattr(arguments, item.name)
            if value != item.default and item.name not in (
                "model_name_or_path",
                "output_dir",
                "do_train",
                "do_eval",
            ):
                shown = re.sub(r"\s+", " ", entries[item.name])
                assert f"(default: {value:g})" in shown if value != "no" else "(default: no)" in shown, (
                    item.name
                )


@pytest.mark.integration
def test_help_and_parsing_load_no_framework():
    """Neither Paddle, which takes seconds to load, nor PaddleNLP."""
    for code in ("main(['finetune', '--help'])", "main(['ptuning', '--help'])"):
        check = (
            "import sys\nfrom paddle_glm.main import main\n"
            f"try: {code}\nexcept SystemExit: pass\n"
            "sys.exit(bool({'paddle', 'paddlenlp', 'torch', 'transformers'} & set(sys.modules)))"
        )
        subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_tables_and_defaults_fit_this_release_of_paddlenlp():
    """A flag that a release of PaddleNLP brings has to be looked at."""
    theirs = {item.name: item.default for item in fields(TrainingArguments)}
    own = {"save_format", "group_by_length", "hang_timeout", "recompute_granularity"}
    ours = {item.name: item.default for item in fields(FinetuneArguments) if item.name not in own}
    assert (
        ours.keys() | UNSUPPORTED_FLAGS.keys() == theirs.keys() and not ours.keys() & UNSUPPORTED_FLAGS.keys()
    )
    assert {name: theirs[name] for name in UNSUPPORTED_FLAGS} == UNSUPPORTED_FLAGS
    different = {name for name, default in ours.items() if theirs[name] not in (default, MISSING)}
    assert different == {"evaluation_strategy", "device", "report_to", "tensor_parallel_degree"}


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ("--pipeline_parallel_degree 2", "--pipeline_parallel_degree 2"),
        ("--no_cuda", "--no_cuda True"),
        ("--unified_checkpoint=True", "--unified_checkpoint True"),
        ("--no_remove_unused_columns", "--remove_unused_columns False"),
        ("--label_names a b", "--label_names a b"),
        ("--optim adamw_mini", "--optim adamw_mini"),
    ],
)
def test_refused_flags_are_errors_that_name_them(flags, shown):
    with pytest.raises(InputError, match=f"^{shown} is not supported: leave it out"):
        parse_finetune_args([*LEAST, *flags.split()])


def test_refused_flags_may_be_given_at_their_defaults():
    words = "--pipeline_parallel_degree -1 --unified_checkpoint False --remove_unused_columns --optim adamw"
    _, _, args = parse_finetune_args([*LEAST, *words.split(), "--seed", "7"])
    assert args.seed == 7
