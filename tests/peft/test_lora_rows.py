"""LoRA adapters by row: a batch in company gives what each row gives alone."""

import numpy as np
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.errors import InputError
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.peft.lora_rows import LoraRows
from tests.peft.test_lora import LAYER, OTHER, peft_folder, random_pair

PROMPTS = {
    "ads": [5, 6, 7, 8, 9, 10, 11],
    None: [20, 21, 22, 23],
    "poems": [30, 31, 32, 33, 34],
    "one": [9, 8],
}
DENSE = "transformer.encoder.layers.0.self_attention.dense"
UP = "transformer.encoder.layers.1.mlp.dense_h_to_4h"
# Adapters of one layer more or less, of other ranks and scales.
ADAPTERS = {
    "ads": ((LAYER, DENSE, UP, OTHER), {"r": 4}),
    "poems": ((LAYER, OTHER), {"r": 8, "use_rslora": True}),
    "one": ((UP,), {"r": 2, "lora_alpha": 1}),
}
STEPS = 6


@pytest.fixture(scope="module")
def folders(tiny_checkpoint, tmp_path_factory):
    model, found = AutoModel.from_pretrained(tiny_checkpoint), {}
    for seed, (name, (modules, settings)) in enumerate(ADAPTERS.items()):
        pairs = {module: random_pair(model, settings["r"], module, seed) for module in modules}
        found[name] = peft_folder(tmp_path_factory.mktemp("adapters") / name, pairs, **settings)
    return found


def open_backend(folder, folders, bits=None, dtype="float32"):
    backend = DygraphBackend(AutoModel.from_pretrained(folder, dtype, quantization_bit=bits))
    rows = LoraRows(backend.model)
    for name, path in folders.items():
        rows.load(name, path)
    backend.adapters = rows
    return backend


def add(backend, adapter, replace):
    """Read the adapter's prompt and let it join; returns its logits [1, vocab]."""
    ids = np.array([PROMPTS[adapter]])
    reading = backend.start_reading(ids, np.ones_like(ids), None, adapter)
    logits = backend.read(reading, ids.shape[1])
    backend.join(reading, replace)
    return logits


def greedy(backend, logits):
    """Logits of each of `STEPS` greedy steps, float32 [steps, rows, vocab]."""
    found = [logits]
    while len(found) < STEPS:
        found.append(backend.decode(found[-1].argmax(axis=1)))
    return np.stack(found)


@pytest.mark.parametrize(
    ("bits", "dtype", "pages"),
    [
        (None, "float32", False),
        (None, "float32", True),
        (8, "float32", True),
        (4, "float32", False),
        (None, "bfloat16", False),
    ],
)
def test_rows_in_company_answer_as_alone(tiny_checkpoint, folders, bits, dtype, pages):
    backend = open_backend(tiny_checkpoint, folders, bits, dtype)
    if pages:
        backend.limit_cache(1 << 22)
    alone = {}
    for name, folder in {**folders, None: None}.items():
        keywords = {"quantization_bit": bits, "lora_path": folder}
        single = DygraphBackend(AutoModel.from_pretrained(tiny_checkpoint, dtype, **keywords))
        ids = np.array([PROMPTS[name]])
        alone[name] = greedy(single, single.prefill(ids, np.ones_like(ids)))[:, 0]
    order = list(PROMPTS)
    together = np.concatenate([add(backend, name, replace=index == 0) for index, name in enumerate(order)])
    company = greedy(backend, together)
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    for row, name in enumerate(order):
        np.testing.assert_allclose(company[:, row], alone[name], atol=tolerance)
        if dtype == "float32":
            assert (company[:, row].argmax(axis=1) == alone[name].argmax(axis=1)).all()
    assert backend.row_cache(order.index("ads")).adapter == "ads"


def decoded(backend, adapters):
    """Logits of a decoding step of the prompts [rows, vocab], all with keys and values of the model alone."""
    for index, name in enumerate(PROMPTS):
        ids = np.array([PROMPTS[name]])
        reading = backend.start_reading(ids, np.ones_like(ids))
        backend.read(reading, ids.shape[1])
        reading.adapter = adapters[index]
        backend.join(reading, replace=index == 0)
    return backend.decode(np.arange(5, 5 + len(PROMPTS)))


@pytest.mark.parametrize(
    ("bits", "dtype"), [(None, "float32"), (8, "float32"), (4, "float32"), (None, "bfloat16")]
)
def test_a_row_without_an_adapter_is_not_touched(tiny_checkpoint, folders, bits, dtype):
    """To the bit, beside rows with adapters."""
    backend = open_backend(tiny_checkpoint, folders, bits, dtype)
    plain = decoded(backend, [None] * len(PROMPTS))
    mixed = decoded(backend, list(PROMPTS))
    base = list(PROMPTS).index(None)
    print(np.abs(mixed[base] - plain[base]).max())
    assert (mixed[base] == plain[base]).all()
    assert (mixed != plain).any(axis=1).tolist() == [name is not None for name in PROMPTS]


def test_hooks_are_there_while_a_row_needs_them(tiny_checkpoint, folders):
    """Without adapters blocks run as operators; rows keep their adapters when others leave or move."""
    backend = open_backend(tiny_checkpoint, folders)
    attention = backend.model.blocks()[0].self_attention
    hooked = [layer.has_hooks for layer in (attention.query_key_value, attention.dense)]
    assert hooked == [False, False]
    order = list(PROMPTS)
    logits = np.concatenate([add(backend, name, replace=index == 0) for index, name in enumerate(order)])
    tokens = logits.argmax(axis=1)
    company = backend.decode(tokens)
    assert attention.query_key_value.has_hooks and attention.dense.has_hooks
    backend.select(np.array([2, 0]))  # poems, ads
    assert backend.row_cache(0).adapter == "poems" and backend.row_cache(1).adapter == "ads"
    moved = backend.decode(company.argmax(axis=1)[[2, 0]])
    backend.select(np.array([0]))
    last = backend.decode(moved.argmax(axis=1)[:1])
    assert attention.query_key_value.has_hooks and not attention.dense.has_hooks
    alone = open_backend(tiny_checkpoint, {"poems": folders["poems"]})
    expected = greedy(alone, add(alone, "poems", replace=True))
    np.testing.assert_allclose([company[2], moved[0], last[0]], expected[1:4, 0], atol=1e-5)
    ids = np.array([PROMPTS[None]])
    backend.prefill(ids, np.ones_like(ids))
    assert not attention.query_key_value.has_hooks


def test_adapters_of_another_model_are_refused(tiny_checkpoint, folders, tmp_path):
    backend = open_backend(tiny_checkpoint, folders)
    a, b = random_pair(backend.model)
    for pairs in ({LAYER: (np.tile(a, 2), b)}, {LAYER: (a, b), "transformer.output_layer": (a, b)}):
        with pytest.raises(InputError):
            backend.adapters.load("odd", peft_folder(tmp_path / "peft", pairs))
    assert backend.adapter_names == ("ads", "poems", "one")
