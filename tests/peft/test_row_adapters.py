"""Adapters by row: a batch in company gives what each row gives alone."""

import numpy as np
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import save_checkpoint
from paddle_glm.doctor.tiny_models import model_folder, prompts
from paddle_glm.errors import InputError
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.peft.row_adapters import NamedAdapters
from tests.peft.test_lora import LAYER, OTHER, peft_folder, random_pair

PROMPTS = {
    "ads": [5, 6, 7, 8, 9, 10, 11],
    None: [20, 21, 22, 23],
    "poems": [30, 31, 32, 33, 34],
    "one": [9, 8],
    "short": [12, 13, 14, 15],
    "long": [5, 6, 7],
}
DENSE = "transformer.encoder.layers.0.self_attention.dense"
UP = "transformer.encoder.layers.1.mlp.dense_h_to_4h"
# Adapters of one layer more or less, of other ranks and scales.
ADAPTERS = {
    "ads": ((LAYER, DENSE, UP, OTHER), {"r": 4}),
    "poems": ((LAYER, OTHER), {"r": 8, "use_rslora": True}),
    "one": ((UP,), {"r": 2, "lora_alpha": 1}),
}
# Tokens of prefixes, and whether they have a projection; one takes more than a page.
PREFIXES = {"short": (5, False), "long": (70, True)}
LORA = (*ADAPTERS, None)
STEPS = 6


@pytest.fixture(scope="module")
def folders(tiny_checkpoint, tmp_path_factory):
    model, found = AutoModel.from_pretrained(tiny_checkpoint), {}
    for seed, (name, (modules, settings)) in enumerate(ADAPTERS.items()):
        pairs = {module: random_pair(model, settings["r"], module, seed) for module in modules}
        found[name] = peft_folder(tmp_path_factory.mktemp("adapters") / name, pairs, **settings)
    return {**found, **prefix_folders(tiny_checkpoint, tmp_path_factory.mktemp("prefixes"))}


def prefix_folders(checkpoint, folder):
    """As `finetune` writes them, or THUDM's script: its weights file with nothing but the prefix."""
    found = {}
    for name, (length, projection) in PREFIXES.items():
        adapter = attach_prefix(AutoModel.from_pretrained(checkpoint), length, projection, seed=length)
        found[name] = folder / name
        found[name].mkdir()
        if projection:
            adapter.save(found[name])
        else:
            tensors = [(one, parameter.numpy()) for one, parameter in adapter.parameters()]
            save_checkpoint(found[name], tensors, file_format="bin")
            (found[name] / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    return found


def open_backend(folder, folders, bits=None, dtype="float32"):
    backend = DygraphBackend(AutoModel.from_pretrained(folder, dtype, quantization_bit=bits))
    backend.adapters = adapters = NamedAdapters(backend.model)
    for name, path in folders.items():
        adapters.load(name, path)
    return backend


def open_alone(folder, name, folders, bits=None, dtype="float32"):
    flag = "ptuning_checkpoint" if name in PREFIXES else "lora_path"
    keywords = {"quantization_bit": bits, flag: folders.get(name)}
    return DygraphBackend(AutoModel.from_pretrained(folder, dtype, **keywords))


def add(backend, adapter, replace, ids=None):
    """Read a prompt, int64 [1, tokens], or the adapter's and let it join; returns its logits [1, vocab]."""
    ids = np.array([PROMPTS[adapter]]) if ids is None else ids
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
    order = [name for name in PROMPTS if pages or name in LORA]
    if pages:
        backend.limit_cache(1 << 22)
    alone = {}
    for name in order:
        single = open_alone(tiny_checkpoint, name, folders, bits, dtype)
        ids = np.array([PROMPTS[name]])
        alone[name] = greedy(single, single.prefill(ids, np.ones_like(ids)))[:, 0]
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
    for index, name in enumerate(LORA):
        ids = np.array([PROMPTS[name]])
        reading = backend.start_reading(ids, np.ones_like(ids))
        backend.read(reading, ids.shape[1])
        reading.adapter = adapters[index]
        backend.join(reading, replace=index == 0)
    return backend.decode(np.arange(5, 5 + len(LORA)))


@pytest.mark.parametrize(
    ("bits", "dtype"), [(None, "float32"), (8, "float32"), (4, "float32"), (None, "bfloat16")]
)
def test_a_row_without_an_adapter_is_not_touched(tiny_checkpoint, folders, bits, dtype):
    """To the bit, beside rows with adapters."""
    backend = open_backend(tiny_checkpoint, folders, bits, dtype)
    plain = decoded(backend, [None] * len(LORA))
    mixed = decoded(backend, LORA)
    base = LORA.index(None)
    assert (mixed[base] == plain[base]).all()
    assert (mixed != plain).any(axis=1).tolist() == [name is not None for name in LORA]


def test_a_row_without_a_prefix_is_not_touched(tiny_checkpoint, folders):
    """To the bit, beside rows with prefixes, which need no hooks."""
    backend, found = open_backend(tiny_checkpoint, folders), []
    backend.limit_cache(1 << 22)
    for company in ([None] * 4, ["long", None, "short", "long"]):
        logits = np.concatenate([add(backend, name, replace=row == 0) for row, name in enumerate(company)])
        found.append(np.stack([logits, backend.decode(np.array([7, 8, 9, 10]))]))
        assert not backend.model.blocks()[0].self_attention.query_key_value.has_hooks
    plain, mixed = found
    assert (plain != mixed).any(axis=(0, 2)).tolist() == [True, False, True, True]


@pytest.mark.parametrize("family", ["chatglm", "chatglm2", "chatglm3"])
def test_rows_of_a_prefix_in_each_family(family, tmp_path):
    """They share the pages that it fills, and what one leaves begins another of its own."""
    checkpoint = model_folder(tmp_path, family)
    folders = prefix_folders(checkpoint, tmp_path)
    backend = open_backend(checkpoint, folders)
    prompt = prompts(backend.config)["input_ids"][:1]
    backend.limit_cache(1 << 24)
    page = backend._pool.nbytes_per_page
    order = ["long", None, "short", "long"]
    alone = {}
    for name in set(order):
        single = open_alone(checkpoint, name, folders)
        alone[name] = greedy(single, single.prefill(prompt, np.ones_like(prompt)))
    logits = np.concatenate([add(backend, name, index == 0, prompt) for index, name in enumerate(order)])
    company = greedy(backend, logits)
    np.testing.assert_allclose(company, np.concatenate([alone[name] for name in order], axis=1), atol=1e-5)
    assert backend.prefix_lengths == {None: 0, "short": 5, "long": 70}
    assert backend.cache_nbytes == (2 + 1 + 1 + 1) * page
    if backend.family.is_causal:
        kept = backend.row_cache(0)
        following = np.concatenate([prompt, company[:-1, :1].argmax(axis=2).T, [[7]]], axis=1)
        reading = backend.start_reading(following, np.ones_like(following), kept, "long")
        assert reading.columns_read == following.shape[1] - 1
        single = open_alone(checkpoint, "long", folders)
        expected = greedy(single, single.prefill(following, np.ones_like(following)))
        logits = backend.read(reading, 1)
        backend.join(reading, replace=True)
        np.testing.assert_allclose(greedy(backend, logits), expected, atol=1e-5)


def test_prefixes_of_several_lengths_need_pages(tiny_checkpoint, folders):
    backend = open_backend(tiny_checkpoint, folders)
    add(backend, "short", replace=True)
    with pytest.raises(ValueError, match="a prefix of 70 columns beside such of 5"):
        add(backend, "long", replace=False)


def test_a_prefix_in_place_of_the_models_own(tiny_checkpoint, folders):
    model = AutoModel.from_pretrained(tiny_checkpoint, ptuning_checkpoint=folders["long"])
    backend = DygraphBackend(model)
    backend.adapters = NamedAdapters(model)
    backend.adapters.load("short", folders["short"])
    backend.adapters.load("ads", folders["ads"])
    backend.limit_cache(1 << 22)
    assert backend.prefix_lengths == {None: 70, "short": 5, "ads": 70}
    for name, alone in ((None, "long"), ("short", "short")):
        single = open_alone(tiny_checkpoint, alone, folders)
        ids = np.array([PROMPTS["one"]])
        expected = greedy(single, single.prefill(ids, np.ones_like(ids)))
        np.testing.assert_allclose(greedy(backend, add(backend, name, True, ids)), expected, atol=1e-5)


def test_hooks_are_there_while_a_row_needs_them(tiny_checkpoint, folders):
    """Without adapters blocks run as operators; rows keep their adapters when others leave or move."""
    backend = open_backend(tiny_checkpoint, folders)
    attention = backend.model.blocks()[0].self_attention
    hooked = [layer.has_hooks for layer in (attention.query_key_value, attention.dense)]
    assert hooked == [False, False]
    order = ["ads", None, "poems", "one"]
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
    arrays = {"transformer.prefix_encoder.embedding.weight": np.zeros((3, 99), np.float32)}
    save_checkpoint(tmp_path, arrays.items())
    with pytest.raises(InputError, match=r"does not fit the model.*\(3, 99\), expected \(3, 128\)"):
        backend.adapters.load("odd", tmp_path)
    assert backend.adapter_names == ("ads", "poems", "one", "short", "long")
