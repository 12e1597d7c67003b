"""Opening models as THUDM's guides do, but for the import line; keywords of other libraries."""

import json
import os
import pickle
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_glm import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    hub,
    load_model_on_gpus,
    load_state_dict,
)
from paddle_glm.auto import load_options, multi_gpu
from paddle_glm.checkpoint import save_checkpoint
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.hardware import gpu_count
from paddle_glm.models.base import CausalLM
from paddle_glm.models.prefix_encoder import PREFIX_ENCODER
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.tokenizers import Tokenizer
from tests.snippets.conftest import GREEDY


def test_opening_as_in_the_guides(folder: str) -> None:
    """THUDM's README, line for line."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, device="cpu")
    model = model.eval()
    response, history = model.chat(tokenizer, "你好", history=[], max_length=40)
    assert isinstance(response, str) and history
    assert model.device == "cpu" and model.dtype == "float32"
    for guide in (AutoModelForCausalLM, AutoModelForSeq2SeqLM):
        assert guide is AutoModel
    inputs = tokenizer(["你好"], return_tensors="pd").to(model.device)
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 1
    with pytest.raises(InputError, match='give the tokenizer return_tensors="pd"'):
        tokenizer("你好").to("cpu")


def test_without_a_gpu_cuda_is_a_sentence(model: CausalLM, tokenizer: Tokenizer, folder: str) -> None:
    if gpu_count():
        pytest.skip("this machine has a GPU")
    for call in (
        lambda: AutoModel.from_pretrained(folder, device="cuda"),
        lambda: AutoModel.from_pretrained(folder, device_map="cuda:0"),
        lambda: AutoModel.from_pretrained(folder).half().cuda(),
        lambda: AutoModel.from_pretrained(folder).half().quantize(4).cuda().eval(),
        lambda: tokenizer("你好", return_tensors="pd").to("cuda"),
    ):
        with pytest.raises(InputError, match=r"install paddlepaddle-gpu|Paddle sees no GPU"):
            call()


@pytest.mark.parametrize(
    "given",
    [
        {"torch_dtype": "float16"},
        {"torch_dtype": paddle.float16},
        {"torch_dtype": "torch.float16"},
        {"torch_dtype": np.float16},
        {"dtype": "half"},
        {"dtype": paddle.float16, "torch_dtype": "float16"},
    ],
    ids=str,
)
def test_dtypes_as_people_write_them(folder: str, given: dict) -> None:
    assert AutoModel.from_pretrained(folder, **given).dtype == "float16"


def test_the_folders_own_dtype(folder: str, tmp_path: Path) -> None:
    AutoModel.from_pretrained(folder).half().save_pretrained(tmp_path / "half")
    config = AutoConfig.from_pretrained(tmp_path / "half")
    assert config.torch_dtype == config.dtype == "float16"
    config.torch_dtype = "bfloat16"
    assert AutoModel.from_pretrained(tmp_path / "half", config=config).dtype == "bfloat16"
    with pytest.raises(InputError, match="config says dtype = 'bfloat16', the keyword 'float16'"):
        AutoModel.from_pretrained(tmp_path / "half", config=config, torch_dtype="float16")
    with pytest.raises(InputError, match="contradict each other"):
        AutoModel.from_pretrained(folder, dtype="float16", torch_dtype="float32")
    with pytest.raises(InputError, match="'int8' is not one of"):
        AutoModel.from_pretrained(folder, torch_dtype="int8")


class BitsAndBytesConfig:
    """As that of transformers: attributes, and `to_dict` with more than was given."""

    def __init__(self, load_in_8bit: bool = False, load_in_4bit: bool = False, **rest: Any) -> None:
        self.values = {"load_in_8bit": load_in_8bit, "load_in_4bit": load_in_4bit, **rest}

    def to_dict(self) -> dict[str, Any]:
        return {
            **{"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4", "llm_int8_threshold": 6.0},
            **{"llm_int8_skip_modules": None, "llm_int8_enable_fp32_cpu_offload": False, **self.values},
        }


@pytest.mark.parametrize(
    ("given", "bits"),
    [
        ({"quantization_config": BitsAndBytesConfig(load_in_4bit=True)}, 4),
        ({"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}, 8),
        ({"quantization_config": {"bits": 4, "group_size": 32}}, 4),
        ({"quantization_config": SimpleNamespace(weight_quantize_algo="weight_only_int8")}, 8),
        ({"load_in_4bit": True}, 4),
        ({"load_in_8bit": True, "load_in_4bit": False}, 8),
    ],
    ids=["bnb4", "bnb8", "mapping", "paddlenlp", "4bit", "8bit"],
)
def test_quantisation_as_others_say_it(folder: str, given: dict, bits: int) -> None:
    config = AutoModel.from_pretrained(folder, **given).config
    assert config.quantization_bit == bits
    if "group_size" in str(given):
        assert config.quantization_group_size == 32


def test_what_opening_cannot_do_is_refused_by_name(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for keywords, message in (
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "quant_method 'gptq': run `paddle-glm",
        ),
        ({"quantization_config": {}}, "says no bits: expected bits"),
        ({"quantization_config": {"bits": 4, "llm_int8_skip_modules": ["lm_head"]}}, "llm_int8_skip_modules"),
        ({"load_in_4bit": True, "quantization_bit": 8}, "contradict each other"),
        (
            {"device_map": {"transformer": 0, "lm_head": 1}},
            r"device_map over 2 devices: .*load_model_on_gpus",
        ),
        ({"attn_implementation": "sdpa"}, "attn_implementation is not supported: leave it out"),
        ({"max_memory": {0: "10GB"}}, "max_memory is not supported: give quantization_bit=4"),
        ({"trust_remote_cod": True}, "has no keyword 'trust_remote_cod': known are .*trust_remote_code"),
        ({"prefix_projection": True}, "prefix_projection needs pre_seq_len"),
        ({"revision": "v0.1.0"}, "revision 'v0.1.0': .* is a local folder"),
        ({"config": 3}, "config is a int: expected AutoConfig"),
    ):
        with pytest.raises(InputError, match=message):
            AutoModel.from_pretrained(folder, **keywords)
    for auto in (AutoTokenizer, AutoConfig):
        with pytest.raises(InputError, match="from_pretrained has no keyword 'use_slow'"):
            auto.from_pretrained(folder, use_slow=True)
    with pytest.raises(InputError, match=r"padding_side is not supported: .* left"):
        AutoTokenizer.from_pretrained(folder, padding_side="right")
    AutoTokenizer.from_pretrained(folder, padding_side="left", use_fast=False, revision="main")
    AutoModel.from_pretrained(folder, low_cpu_mem_usage=True, empty_init=False, device_map={"": "cpu"})
    monkeypatch.setattr(load_options, "gpu_count", lambda: 2)
    with pytest.raises(InputError, match='device_map="auto" with 2 GPUs: layers are not spread'):
        AutoModel.from_pretrained(folder, device_map="auto")


def test_a_hubs_name_is_fetched_or_explained(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for auto in (AutoModel, AutoTokenizer, AutoConfig):
        with pytest.raises(InputError, match="is not a local folder"):
            auto.from_pretrained("THUDM/chatglm2-6b", trust_remote_code=True, revision="v1.0")
    asked = []
    monkeypatch.setattr(hub, "_download", lambda *arguments: asked.append(arguments) or Path(folder))
    for auto in (AutoModel, AutoTokenizer, AutoConfig):
        auto.from_pretrained("THUDM/chatglm2-6b", revision="v1.0", download=True, cache_dir="there")
    assert asked == [("huggingface", "THUDM/chatglm2-6b", "v1.0", "there")] * 3


# -- configurations -----------------------------------------------------------------------------


def test_a_configuration_can_be_set(folder: str) -> None:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    plain = ModelConfig.from_pretrained(folder)
    assert config == plain and plain == config and hash(config) == hash(plain)
    config.pre_seq_len = 128
    config.prefix_projection = False
    config.quantization_bit = 8
    assert config != plain and config.to_model_config().pre_seq_len == 128
    assert config.model_type == "chatglm" and config.num_layers == 2
    for name, value, message in (
        ("pre_seq_len", 0, "pre_seq_len is 0: expected"),
        ("quantization_bit", 3, "quantization_bit is 3: expected"),
        ("pre_seq_length", 128, "has no 'pre_seq_length' to set: it has family, num_layers"),
    ):
        with pytest.raises(InputError, match=message):
            setattr(config, name, value)
    assert config.pre_seq_len == 128
    assert AutoConfig.from_pretrained(folder, pre_seq_len=7).pre_seq_len == 7
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        config.nothing  # noqa: B018
    with pytest.raises(AttributeError):  # a model's own is not to be changed
        AutoModel.from_pretrained(folder).config.pre_seq_len = 3


def test_a_configuration_may_ask_for_integers(folder: str, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    config.quantization_bit = 8
    model = AutoModel.from_pretrained(folder, config=config)
    assert model.config.quantization_bit == 8
    model.save_pretrained(tmp_path / "int8")
    assert AutoModel.from_pretrained(tmp_path / "int8").config.quantization_bit == 8
    with pytest.raises(InputError, match="config says quantization_bit = 0"):
        AutoModel.from_pretrained(tmp_path / "int8", config=AutoConfig.from_pretrained(folder))
    with pytest.raises(InputError, match="config says quantization_bit = 8, the keyword 4"):
        AutoModel.from_pretrained(folder, config=config, quantization_bit=4)


def test_a_configuration_of_another_model_is_refused(folder: str) -> None:
    config = AutoConfig.from_pretrained(folder)
    config.num_layers = 3
    assert AutoModel.from_config(config, trust_remote_code=True).config == config
    with pytest.raises(InputError, match=r"config says num_layers = 3, .* 2: give the configuration of this"):
        AutoModel.from_pretrained(folder, config=config)


# -- P-Tuning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("file_format", ["bin", "safetensors"])
def test_a_prefix_is_loaded_as_in_the_guides(
    folder: str, tokenizer: Tokenizer, projection: bool, file_format: str, tmp_path: Path
) -> None:
    """THUDM's ptuning/README.md: train elsewhere, then put the prefix in front of the base."""
    trained = AutoModel.from_pretrained(folder)
    attach_prefix(trained, 5, projection, seed=7)
    arrays = {name: value for name, value in trained.named_arrays() if PREFIX_ENCODER in name}
    (tmp_path / "checkpoint-3000").mkdir()
    save_checkpoint(tmp_path / "checkpoint-3000", arrays.items(), file_format=file_format)
    CHECKPOINT_PATH = str(tmp_path / "checkpoint-3000")
    name = "pytorch_model.bin" if file_format == "bin" else "model.safetensors"

    config = AutoConfig.from_pretrained(folder, trust_remote_code=True, pre_seq_len=5)
    config.prefix_projection = projection
    with pytest.warns(UserWarning, match="prefix of 5 tokens is untrained"):
        model = AutoModel.from_pretrained(folder, config=config, trust_remote_code=True)
    prefix_state_dict = load_state_dict(os.path.join(CHECKPOINT_PATH, name))
    new_prefix_state_dict = {}
    for k, v in prefix_state_dict.items():
        if k.startswith("transformer.prefix_encoder."):
            new_prefix_state_dict[k[len("transformer.prefix_encoder.") :]] = v
    model.transformer.prefix_encoder.load_state_dict(new_prefix_state_dict)
    model = model.half()
    model.transformer.prefix_encoder.float()
    model = model.float().eval()
    assert model.chat(tokenizer, "你好", history=[], **GREEDY) == trained.chat(tokenizer, "你好", **GREEDY)

    encoder = model.transformer.prefix_encoder
    half = {k: paddle.to_tensor(v).astype("bfloat16") for k, v in new_prefix_state_dict.items()}
    encoder.load_state_dict(half)
    rounded = half["embedding.weight"].astype("float32").numpy()
    assert (encoder.embedding.weight.numpy() == rounded).all()
    for wrong, message in (
        ({}, "the prefix encoder has embedding.weight"),
        (prefix_state_dict, "names without transformer.prefix_encoder"),
        ({**half, "embedding.weight": rounded[:3]}, r"embedding.weight is \[3, .*pre_seq_len"),
    ):
        with pytest.raises(InputError, match=message):
            encoder.load_state_dict(wrong)
    assert (encoder.embedding.weight.numpy() == rounded).all()
    # Then quantised, as the guide goes on.
    assert model.quantize(4).eval().chat(tokenizer, "你好", history=[], **GREEDY)


def test_pre_seq_len_meets_the_folders_own(folder: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="untrained"):
        model = AutoModel.from_pretrained(folder, pre_seq_len=5)
    model.save_pretrained(tmp_path / "with")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = AutoModel.from_pretrained(tmp_path / "with", pre_seq_len=5)
    assert again.config.pre_seq_len == 5
    with pytest.raises(InputError, match="has a prefix of pre_seq_len 5"):
        AutoModel.from_pretrained(tmp_path / "with", pre_seq_len=6)
    with pytest.raises(InputError, match="config says pre_seq_len = None"):
        AutoModel.from_pretrained(tmp_path / "with", config=AutoConfig.from_pretrained(folder))


def test_a_state_dict_is_read_and_never_executed(folder: str, tmp_path: Path) -> None:
    weights = load_state_dict(Path(folder) / "model.safetensors")
    assert weights.keys() == load_state_dict(folder).keys()
    (tmp_path / "evil.bin").write_bytes(pickle.dumps(os.system))
    (tmp_path / "notes.txt").write_text("x")
    for name, message in (
        ("evil.bin", "evil.bin"),
        ("notes.txt", "expected a file that ends in"),
        ("missing.bin", "not found"),
    ):
        with pytest.raises(InputError, match=message):
            load_state_dict(tmp_path / name)


# -- chains -------------------------------------------------------------------------------------


def test_chains(folder: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).half().quantize(4).eval()
    assert (model.dtype, model.config.quantization_bit) == ("float16", 4)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).quantize(8).half().eval()
    assert (model.dtype, model.config.quantization_bit) == ("float16", 8)
    assert model.chat(tokenizer, "你好", history=[], **GREEDY)
    assert AutoModel.from_pretrained(folder).bfloat16().float().eval().dtype == "float32"
    AutoModel.from_pretrained(folder).half().save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "float16"
    assert {array.dtype for array in load_state_dict(tmp_path / "half").values()} == {np.dtype("float16")}
    with pytest.raises(InputError, match="'float64' is not one of"):
        AutoModel.from_pretrained(folder).double()


def test_loading_on_gpus_says_how(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["web_demo.py"])
    for count, which in ((0, "--nproc_per_node 2"), (2, "--gpus 0,1")):
        monkeypatch.setattr(multi_gpu, "gpu_count", lambda count=count: count)
        command = f"`python -m paddle.distributed.launch {which} web_demo.py`"
        with pytest.raises(InputError, match=f"2 needs as many processes, but 1 run: .* {command}"):
            load_model_on_gpus(folder, num_gpus=2)
    assert load_model_on_gpus(folder, num_gpus=1, device="cpu").group.degree == 1
