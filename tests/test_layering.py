"""Imports point down only, and what has to start fast starts without paddle."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "paddle_glm"

# From the ground up. A layer may import any layer of a lower line, never one of its own line.
LAYERS = (
    ("errors", "version", "system", "array_types"),
    ("allocator", "progress"),
    ("paddlenlp_config", "key_rules", "hub", "hardware", "pretrained_kwargs"),
    ("config_keys", "generation_keys", "models.registry"),
    ("config", "sharding", "precision", "numpy_interop", "autograd"),
    ("chat_template", "quantization", "auto_config"),
    ("models.family",),
    ("models.*",),
    ("load_memory",),
    ("tokenizers", "checkpoint"),
    ("models.*.tokenizer",),
    ("parallel", "generation", "data"),
    ("layers", "backends"),
    ("peft",),
    ("models",),
    ("export", "evaluation"),
    ("training",),
    ("serving", "tiny"),
    ("commands",),
    ("main",),
)
LEVELS = {layer: level for level, line in enumerate(LAYERS) for layer in line}
# What a layer may import of ours where that is less than everything below it.
ONLY = {"generation": {"errors", "array_types", "chat_template", "models.family"}}
WITHOUT_PADDLE = (
    *("errors", "version", "system", "array_types", "allocator", "progress"),
    *("paddlenlp_config", "config", "sharding"),
    *("chat_template", "key_rules", "config_keys", "pretrained_kwargs", "auto_config"),
    *("models.registry", "models.family", "models.*", "models.*.tokenizer"),
    *("quantization", "hub", "tokenizers", "checkpoint", "generation", "tiny", "data"),
)
WITH_PADDLENLP = ("training",)


FAMILY_CONTRACT = ("family", "prefix_encoder", "initialization")


def layer_of(module: str) -> str:
    """paddle_glm.checkpoint.atomic_save -> checkpoint; the package itself is the facade.

    models has finer floors: the registry, the contract, each family's data, its tokenizer, and the rest.
    """
    parts = module.split(".")
    if parts[1:2] == ["models"] and len(parts) > 2:
        if parts[2] == "registry":
            return "models.registry"
        if parts[2] in FAMILY_CONTRACT:
            return "models.family"
        if (PACKAGE / "models" / parts[2]).is_dir() and parts[3:] != ["modeling"]:
            return "models.*.tokenizer" if parts[3:] == ["tokenizer"] else "models.*"
    return parts[1] if len(parts) > 1 else "__init__"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, also those in functions; not those for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ignored = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(tree):
        if node in ignored:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            if base == "paddle_glm":  # `from paddle_glm import chat_template` imports a layer, not the facade
                for alias in node.names:
                    is_layer = alias.name in LEVELS
                    yield node.lineno, f"{base}.{alias.name}" if is_layer else base
            else:
                yield node.lineno, base


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_module_has_a_layer():
    found = {layer_of(module_of(path)) for path in SOURCES}
    assert found <= set(LEVELS), "say in LAYERS where these belong"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_down(path):
    layer = layer_of(module_of(path))
    for line, module in imports(path):
        if module.split(".")[0] != "paddle_glm":
            continue
        target = layer_of(module)
        if target == layer:
            continue
        place = f"{path.relative_to(ROOT)}:{line} imports {module}"
        assert target != "__init__", f"{place}: name the layer instead of the facade"
        assert LEVELS[target] < LEVELS[layer], f"{place}: {target} is not below {layer}"
        assert target in ONLY.get(layer, LEVELS), f"{place}: {layer} may import {ONLY.get(layer)} alone"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_frameworks_stay_where_they_belong(path):
    layer = layer_of(module_of(path))
    for line, module in imports(path):
        root = module.split(".")[0]
        place = f"{path.relative_to(ROOT)}:{line} imports {module}"
        assert root not in ("torch", "transformers"), place
        if root == "paddlenlp":
            assert layer in WITH_PADDLENLP, place
        # The tokenizers give paddle tensors on request (return_tensors="pd"), in a function of its own.
        if root == "paddle" and layer != "tokenizers":
            assert layer not in WITHOUT_PADDLE, place


def loaded_by(code: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter holds after running `code`."""
    code += "\nimport sys; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(output.stdout.splitlines()[-1].split())


HEAVY = {"paddle", "paddlenlp", "torch", "transformers", "jieba", "matplotlib", "nltk"}


def test_layers_without_paddle_load_without_it():
    modules = [module_of(path) for path in SOURCES if layer_of(module_of(path)) in WITHOUT_PADDLE]
    assert not HEAVY & loaded_by("\n".join(f"import {module}" for module in modules))


def test_help_and_merge_start_without_paddle():
    run = "from paddle_glm.main import main\ntry: main({})\nexcept SystemExit as end: assert not end.code"
    assert not HEAVY & loaded_by(run.format(["--help"]))
    assert not HEAVY & loaded_by(run.format(["merge", "--help"]))


def test_answering_and_scoring_do_not_load_the_trainer(tiny_checkpoint, tiny_rows, tmp_path):
    rows = tmp_path / "dev.json"
    rows.write_text("\n".join(json.dumps(row) for row in tiny_rows[:2]), encoding="utf-8")
    model = ["--model_name_or_path", str(tiny_checkpoint)]
    data = ["--data_file", str(rows), "--tgt_length", "4"]
    graph, method = str(tmp_path / "graph"), ["--method", "gptq", "--calibration_file", str(rows)]
    commands = [
        ["predict", *model, *data, "--predict_file", str(tmp_path / "predicted")],
        ["evaluate", *model, *data, "--output_dir", str(tmp_path / "scores")],
        ["export", *model, "--output_path", graph],
        ["infer", "--model_path", graph, *data],
        ["quantize", *model, "--output_path", str(tmp_path / "int8"), *method],
    ]
    loaded = loaded_by(f"from paddle_glm.main import main\nfor argv in {commands}: assert main(argv) == 0")
    assert "paddle" in loaded and "paddlenlp" not in loaded


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.name)
def test_tools_hold_no_logic(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    done = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, cwd=ROOT / "tests"
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
