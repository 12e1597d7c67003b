"""Imports point down and never in a circle, and what has to start fast starts without Paddle."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "paddle_glm"

# From the ground up. A layer is a folder or a module of paddle_glm; a `*` stands for any one name.
# A module belongs to the layer that fits it most closely, and may import layers on lower floors and its own.
FLOORS = (
    ("errors", "version", "system", "array_types", "mkl"),
    ("allocator", "progress", "kernels", "numpy_interop"),
    ("paddlenlp_format", "key_rules", "hub", "hardware", "pretrained_kwargs"),
    ("config_keys", "generation_keys", "models.registry"),
    ("models.*.paddlenlp",),
    ("models.*.config",),
    ("config", "sharding", "precision", "paddle_types", "kv_cache"),
    ("chat_template", "quantization"),
    ("models.family", "models.prefix_encoder", "models.initialization"),
    ("models.*.*",),
    ("load_memory",),
    ("tokenizers", "checkpoint"),
    ("models.*.tokenizer",),
    ("parallel", "generation", "data"),
    ("layers", "backends"),
    ("models",),
    ("models.*.modeling",),
    ("peft", "quantization.calibration"),
    ("auto",),
    ("export", "evaluation"),
    ("training",),
    ("serving.batching", "serving.conversation", "tiny", "doctor"),
    ("serving.protocol",),
    ("serving.http", "serving.client"),
    ("serving.pages",),
    ("serving",),
    ("commands",),
    ("main",),
)
# What a layer may import of ours where that is less than everything below it.
ONLY = {"generation": {"errors", "array_types", "chat_template", "models.family"}}
WITHOUT_PADDLE = (
    *("errors", "version", "system", "array_types", "mkl", "allocator", "progress"),
    *("paddlenlp_format", "config", "sharding", "auto.config", "auto.tokenizer"),
    *("auto.backend", "auto.dygraph", "auto.engine", "backends.options", "backends.fastdeploy"),
    *("chat_template", "key_rules", "config_keys", "pretrained_kwargs"),
    *("models.registry", "models.*.config", "models.*.paddlenlp"),
    *("models.family", "models.*.*", "models.*.tokenizer"),
    *("quantization", "hub", "tokenizers", "checkpoint", "generation", "tiny", "data"),
)
# The tokenizers return Paddle tensors on request (return_tensors="pd"), in a function of its own.
MAY_NAME_PADDLE = ("tokenizers",)
WITH_PADDLENLP = ("training",)
# Imports that go up: (importing layer or module, imported layer).
UPWARD = {
    # Names of a family's model and tokenizer classes, imported when asked for: its facts load without Paddle.
    ("models.registry", "models.*.*"),
    ("models.*.__init__", "models.*.modeling"),
    ("models.*.__init__", "models.*.tokenizer"),
}


def module_of(path: Path) -> str:
    """paddle_glm/checkpoint/reader.py -> checkpoint.reader; a package is `checkpoint.__init__`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def matches(module: str, layer: str) -> bool:
    """Whether a layer is the module, or a folder that holds it."""
    names, patterns = module.split("."), layer.split(".")
    return len(names) >= len(patterns) and all(map(fnmatchcase, names, patterns))


def closeness(layer: str) -> tuple[int, int]:
    """How closely a layer describes the modules that it matches; the greater, the closer."""
    return layer.count("."), -layer.count("*")


def level_of(module: str) -> tuple[int, str]:
    """(floor, layer) of a module."""
    found = [
        (closeness(layer), level, layer)
        for level, floor in enumerate(FLOORS)
        for layer in floor
        if matches(module, layer)
    ]
    assert found, f"paddle_glm.{module} has no layer: add it, or its folder, to FLOORS"
    return max(found)[1:]


def is_any(module: str, layers: Iterable[str]) -> bool:
    """Whether the module is in one of the layers (or is one of them), and in no closer one."""
    _, own = level_of(module)
    return any(matches(module, layer) and closeness(layer) >= closeness(own) for layer in layers)


SOURCES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"}
OUR_MODULE = re.compile(r"paddle_glm(\.\w+)+")


@cache
def imports(module: str) -> tuple[tuple[int, str], ...]:
    """(line, dotted name) of every import of a module, also those in functions and under TYPE_CHECKING.

    Those by string too: "paddle_glm.x.y:Name", and names of our modules where `import_module` is called.
    """
    found: list[tuple[int, str]] = []
    text = SOURCES[module].read_text(encoding="utf-8")
    package = f"paddle_glm.{module}".rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name, _, attribute = node.value.partition(":")
            if OUR_MODULE.fullmatch(name) and (attribute.isidentifier() or "import_module" in text):
                found.append((node.lineno, name))
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            found += [(node.lineno, str(arg.value)) for arg in node.args if isinstance(arg, ast.Constant)]
    return tuple(found)


def own_imports(module: str) -> Iterator[tuple[int, str]]:
    """(line, imported module of ours); a name in a module counts as that module, the facade as "__init__"."""
    for line, name in imports(module):
        root, *names = name.split(".")
        if root != "paddle_glm":
            continue
        while names and ".".join(names) not in SOURCES and ".".join([*names, "__init__"]) not in SOURCES:
            names.pop()
        dotted = ".".join(names)
        yield line, dotted if dotted in SOURCES else ".".join([*names, "__init__"])


def place(module: str, line: int) -> str:
    return f"{SOURCES[module].relative_to(ROOT)}:{line}"


def is_upward_exception(module: str, target: str) -> bool:
    return any(matches(module, source) and matches(target, layer) for source, layer in UPWARD)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            start = stack.index(node)
            component, stack[start:] = stack[start:], []
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_no_layer_is_left_over():
    for floor in FLOORS:
        for layer in floor:
            assert any(level_of(module)[1] == layer for module in SOURCES), (
                f"{layer} in FLOORS names no module"
            )


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down(module):
    level, layer = level_of(module)
    for line, target in own_imports(module):
        where = f"{place(module, line)} imports paddle_glm.{target}"
        assert target != "__init__", f"{where}: import the module that defines the name, not the facade"
        target_level, target_layer = level_of(target)
        if target_layer == layer or is_upward_exception(module, target):
            continue
        assert target_level < level, (
            f"{where}: {target_layer} is not below {layer}; move the code that both need down, "
            "or the code that joins them up"
        )
        assert target_layer in ONLY.get(layer, {target_layer}), (
            f"{where}: {layer} may import {', '.join(sorted(ONLY[layer]))} alone"
        )


def test_no_circles():
    graph = {
        module: {
            target
            for _, target in own_imports(module)
            if target not in ("__init__", module) and not is_upward_exception(module, target)
        }
        for module in SOURCES
    }
    lines = []
    for circle in circles(graph):
        lines.append("a circle of imports (TYPE_CHECKING and strings included):")
        for module in circle:
            edges = [(line, target) for line, target in own_imports(module) if target in circle]
            lines += [f"  {place(module, line)} imports {target}" for line, target in edges]
    assert not lines, "\n".join(lines)


def test_the_search_finds_circles():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"a"}}
    assert circles(graph) == [["a", "b", "c"]]


@pytest.mark.parametrize("module", SOURCES)
def test_frameworks_stay_where_they_belong(module):
    for line, name in imports(module):
        root = name.split(".")[0]
        where = f"{place(module, line)} imports {name}"
        assert root not in ("torch", "transformers"), where
        if root == "paddlenlp":
            assert is_any(module, WITH_PADDLENLP), where
        if root == "paddle" and not is_any(module, MAY_NAME_PADDLE):
            assert not is_any(module, WITHOUT_PADDLE), where


def loaded_by(code: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter holds after running `code`."""
    code += "\nimport sys; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(output.stdout.splitlines()[-1].split())


HEAVY = {"paddle", "paddlenlp", "torch", "transformers", "jieba", "matplotlib", "nltk"}


@pytest.mark.integration
def test_layers_without_paddle_load_without_it():
    modules = [module.removesuffix(".__init__") for module in SOURCES if is_any(module, WITHOUT_PADDLE)]
    assert not HEAVY & loaded_by("\n".join(f"import paddle_glm.{module}" for module in modules))


@pytest.mark.integration
def test_help_and_merge_start_without_paddle():
    run = "from paddle_glm.main import main\ntry: main({})\nexcept SystemExit as end: assert not end.code"
    for words in ([], ["merge"], ["chat"], ["predict"]):
        assert not HEAVY & loaded_by(run.format([*words, "--help"]))


@pytest.mark.integration
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


@pytest.mark.integration
@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.name)
def test_tools_hold_no_logic(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    done = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, cwd=ROOT / "tests"
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
