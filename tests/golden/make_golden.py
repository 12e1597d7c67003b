"""Writes what the Python code computes, for the C++ program to compute too.

    python -m tests.golden.make_golden [FOLDER]

The files here are replayed by `ctest` (cpp_infer/tests/golden_test.cc) and by tests/cpp/test_golden.py.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from paddle_glm.backends.base import Backend
from paddle_glm.chat_template import render
from paddle_glm.config import ModelConfig
from paddle_glm.data.data_files import load_examples
from paddle_glm.data.row_formats import KNOWN_COLUMNS, Columns
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationParams
from paddle_glm.generation.detokenizer import StreamingDetokenizer
from paddle_glm.generation.loop import generate
from paddle_glm.generation.response_parser import StreamingResponseParser
from paddle_glm.generation.sampling import apply_repetition_penalty, sample_token, top_k_top_p_filter
from paddle_glm.generation.session import pad_left
from paddle_glm.mkl import AVX2_FLAGS, AVX512_FLAGS, choose_instructions
from paddle_glm.mkl import VARIABLE as MKL_VARIABLE
from paddle_glm.models.chatglm.template import CHATGLM
from paddle_glm.models.chatglm2.template import CHATGLM2
from paddle_glm.models.chatglm3.template import CHATGLM3
from paddle_glm.models.family import get_family
from paddle_glm.tokenizers import Tokenizer

FOLDER = Path(__file__).parent
MODEL = "tokenizer.model"  # tests/tiny_sentencepiece.py wrote it
SAMPLING_PARAMS: tuple[dict[str, Any], ...] = (
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
    {"temperature": 0.8, "top_k": 5, "top_p": 1.0},
    {"temperature": 0.95, "top_k": 0, "top_p": 0.7},
    {"temperature": 2.0, "top_k": 7, "top_p": 0.5, "repetition_penalty": 1.3},
    {"temperature": 0.05, "top_k": 50, "top_p": 0.01, "repetition_penalty": 0.7},
)
TEXTS = (
    "类型#裤*版型#宽松",
    "你好,world  123!",
    "宽松的阔腿裤 这两年真的吸粉不少，明星时尚达人的心头爱。\n第二行\t制表",
    "🤗 emoji 龘 ﾊﾝｶｸ é",
    " leading and trailing ",
    "   ",
    "",
    "[gMASK] sop <|user|> <eop>",
    "a" * 5 + " " * 90 + "b",
)


def cpuinfo(vendor: str, flags: Iterable[str], second: str = "") -> str:
    """The parts of /proc/cpuinfo that count, of one processor and the flags of a second."""
    words = " ".join(["fpu", *sorted(flags), "sse"])
    first = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel\t\t: 17\nflags\t\t: {words}\n"
    return f"{first}bugs\t\t:\npower management: ts [13]\n\nprocessor\t: 1\nflags\t\t: {second}\n"


# Contents of /proc/cpuinfo (None: there is none) and variables.
MKL_CASES: tuple[tuple[str | None, dict[str, str]], ...] = (
    (cpuinfo("AuthenticAMD", AVX512_FLAGS), {}),
    (cpuinfo("AuthenticAMD", AVX2_FLAGS), {}),
    (cpuinfo("HygonGenuine", AVX2_FLAGS), {}),
    (cpuinfo("AuthenticAMD", AVX2_FLAGS, " ".join(sorted(AVX512_FLAGS))), {}),
    (cpuinfo("GenuineIntel", AVX512_FLAGS), {}),
    (cpuinfo("GenuineIntel", AVX2_FLAGS), {}),
    *((cpuinfo("AuthenticAMD", AVX2_FLAGS - {flag}), {}) for flag in sorted(AVX2_FLAGS)),
    *((cpuinfo("AuthenticAMD", AVX512_FLAGS - {flag}), {}) for flag in sorted(AVX512_FLAGS - AVX2_FLAGS)),
    (cpuinfo("AuthenticAMD", AVX512_FLAGS), {"MKL_DEBUG_CPU_TYPE": "4"}),
    (cpuinfo("AuthenticAMD", AVX512_FLAGS), {"MKL_DEBUG_CPU_TYPE": ""}),
    (cpuinfo("AuthenticAMD", AVX512_FLAGS), {"MKL_CBWR": "COMPATIBLE"}),
    (cpuinfo("AuthenticAMD", AVX512_FLAGS), {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}),
    (cpuinfo("GenuineIntel", AVX512_FLAGS), {"MKL_DEBUG_CPU_TYPE": "5"}),
    ("processor\t: 0\nCPU implementer\t: 0x41\nFeatures\t: fp asimd\n", {}),
    ("", {}),
    (None, {}),
)
ANSWERS = (
    "你好，[[训练时间]]的裤子",
    " 空白在前\n和在后 \n ",
    "\n 回答,很好!真的?是:的;",
    "get_weather\n```python\ntool_call(city='北京')\n```<|assistant|>\n 好的, 北京",
    "[[训练时",
    "no line break",
    "中文,English, mixed:数字1,2",
)
CONVERSATIONS: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": "你好"}],
    [
        {"role": "system", "content": "你是一个{助手}"},
        {"role": "user", "content": "{query} 你好"},
        {"role": "assistant", "content": "你好，世界！"},
        {"role": "user", "content": "再见"},
    ],
    [
        {"role": "user", "content": "一"},
        {"role": "assistant", "content": "二"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "[Round 1]\n\n问：四"},
    ],
)
TOOLS = [{"name": "天气", "parameters": {"city": {"type": "string"}, "days": [1, 2.5], "none": None}}]
WITH_TOOLS = [
    {"role": "system", "content": "可以用工具", "tools": TOOLS},
    {"role": "user", "content": "北京天气"},
    {"role": "assistant", "metadata": "天气", "content": "tool_call(city='北京')"},
    {"role": "observation", "content": "晴"},
]

_QUESTION = {"role": "user", "content": "问"}
_ANSWER = {"role": "assistant", "content": "答"}
_NAMED_COLUMNS = {"prompt": "q", "response": "a", "history": "h"}


def _row_of(layout: Columns) -> dict[str, Any]:
    if layout.messages is not None:
        return {layout.messages: [_QUESTION, _ANSWER]}
    return {str(layout.prompt): "问", str(layout.response): "答"}


# (columns that are named, rows of a file)
ROW_CASES: tuple[tuple[dict[str, str] | None, list[Any]], ...] = (
    # The recognised layouts, each with keys that only some heed.
    *(
        (None, [{"extra": 1, "input": "x", "history": [["一", "二"]], **_row_of(one)}])
        for one in KNOWN_COLUMNS
    ),
    (None, [{"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]}]),
    # The first row decides where others fit; answers may be missing, questions may not.
    (
        None,
        [
            {"question": "q", "prompt": "p"},
            {"prompt": "r", "response": None},
            {"prompt": "s", "response": ""},
        ],
    ),
    (
        None,
        [
            {"content": "q"},
            {"prompt": "p", "history": [["一", "二"]]},
            {"messages": [_QUESTION]},
            {"content": "r"},
        ],
    ),
    (None, [{"content": "q"}, {"frage": "r"}]),
    (None, [{"content": "q"}, {"content": " \u3000"}, {"content": "r", "summary": " "}, {"content": None}]),
    (None, [{"messages": [_QUESTION, {"role": "assistant", "content": ""}]}, {"messages": [_QUESTION]}]),
    (None, [{"content": ""}]),
    (None, []),
    (None, [["content"]]),
    (None, [{"frage": "q"}]),
    (None, [{"content": 5}]),
    # Lists of rounds, and histories.
    (
        None,
        [{"src": ["一", "三"], "tgt": ["二", "四"]}, {"src": ["一", "三"], "tgt": ["二"]}, {"src": ["一"]}],
    ),
    (None, [{"src": ["一", "三"], "tgt": []}]),
    (None, [{"src": ["一", "二", "三"], "tgt": ["四"]}]),
    (None, [{"prompt": "q", "history": value} for value in ([], None, "", '[["一", "二"]]', [["一", "二"]])]),
    *((None, [{"prompt": "q", "history": value}]) for value in (5, "no", "{}", ["x"], [["x"]], [["x", 5]])),
    (None, [{"instruction": "q", "input": value} for value in ("", None, "more")]),
    # Conversations.
    (None, [{"messages": WITH_TOOLS}, {"messages": json.dumps([_QUESTION, _ANSWER, _QUESTION])}]),
    (None, [{"messages": [{"role": None, "from": "human", "content": None, "value": "问", "tools": None}]}]),
    *((None, [{"messages": value}]) for value in ([], None, "x", [5], [{"content": "x"}], [_ANSWER])),
    # Columns that are named.
    (_NAMED_COLUMNS, [{"content": "no", "q": "问", "a": "答", "h": [["一", "二"]]}, {"q": "问"}]),
    ({"prompt": "q"}, [{"q": "问", "a": "答", "history": [["一", "二"]]}]),
    (_NAMED_COLUMNS, [{"q": "问", "a": "答"}]),
    ({"prompt": "other"}, [{"q": "问"}]),
)


class ToyBackend(Backend):
    """A language model made of a hash, the same in cpp_infer/tests/toy_engine.h."""

    def __init__(self, vocab: int, limit: int) -> None:
        super().__init__(ModelConfig(vocab_size=vocab, max_sequence_length=limit))
        self.state: list[int] = []

    def reset(self, batch: int) -> None:
        self.state = [14695981039346656037] * batch

    def select_cache(self, rows: np.ndarray) -> None:
        self.state = [self.state[row] for row in rows]

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        ids = inputs["input_ids"]
        real = inputs["attention_mask"][:, -ids.shape[1] :]
        for row in range(len(ids)):
            for token in ids[row][real[row] == 1].tolist():
                self.state[row] = (self.state[row] ^ (token + 1)) * 1099511628211 % 2**64
        words = np.arange(self.config.vocab_size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        value = np.array(self.state, dtype=np.uint64)[:, None] + words
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        return (value >> np.uint64(40)).astype(np.float32) / np.float32(2**21) - np.float32(4)


def sampling() -> dict[str, Any]:
    cases = []
    for seed, way in enumerate(SAMPLING_PARAMS * 2):
        random = np.random.default_rng(seed)
        logits = (random.standard_normal(24) * 3).astype(np.float32)
        if seed >= len(SAMPLING_PARAMS):  # many ties
            logits = np.round(logits / 2) * 2
        params = GenerationParams(**way)
        seen = np.flatnonzero(random.random(24) < 0.4)
        mask = np.isin(np.arange(24), seen)[None]
        penalised = apply_repetition_penalty(logits[None], mask, params.repetition_penalty)[0]
        ids, probabilities = top_k_top_p_filter(penalised, params)
        uniforms = [0.0, *random.random(8), 1 - 2**-53]
        cases.append(
            {
                "params": way,
                "logits": logits,
                "seen": seen,
                "penalised": penalised,
                "ids": ids,
                "probabilities": probabilities,
                "draws": [[uniform, sample_token(penalised, uniform, params)] for uniform in uniforms],
            }
        )
    return {"kind": "sampling", "cases": cases}


def random_numbers() -> dict[str, Any]:
    seeds = (0, 1, 42, 2**32 - 1, 2**32, 2**64 - 1)
    return {
        "kind": "random",
        "cases": [{"seed": seed, "numbers": np.random.default_rng(seed).random(8)} for seed in seeds],
    }


def positions() -> dict[str, Any]:
    old = ModelConfig(
        family="chatglm", position_encoding_2d=True, bos_token_id=30, mask_token_id=20, gmask_token_id=21
    )
    ids, mask = pad_left([[5, 6, 21, 30, 7, 8], [5, 20, 21, 30], [20, 9, 30, 8, 20]], 3)
    cases = []
    for config in (
        ModelConfig(),
        old,
        replace(old, position_encoding_2d=False),
        replace(old, position_encoding_2d=False, gmask_token_id=None, mask_token_id=None, bos_token_id=24),
    ):
        family = get_family(config.family)
        own = np.where(ids == 30, config.bos_token_id, ids) if config.family == "chatglm" else ids
        steps = []
        for tokens in (own.shape[1], 1):
            found = family.step_inputs(config, own, mask, tokens)["position_ids"]
            steps.append({"tokens": tokens, "shape": found.shape, "values": found.ravel()})
        rule = family.position_rule(config)
        cases.append({"rule": rule, "input_ids": own, "attention_mask": mask, "steps": steps})
    return {"kind": "positions", "cases": cases}


PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15]]
SAMPLING_CASES: tuple[dict[str, Any], ...] = (
    {"do_sample": False},
    {"do_sample": False, "repetition_penalty": 1.4},
    {"seed": 3, "temperature": 0.9, "top_k": 10, "top_p": 0.8},
    {"seed": 4, "max_new_tokens": 5, "top_k": 0, "top_p": 0.95, "repetition_penalty": 1.1},
)
BEAM_SEARCH_CASES: tuple[dict[str, Any], ...] = (
    {"num_beams": 2},
    {"num_beams": 4, "length_penalty": 2.0},
    {"num_beams": 3, "length_penalty": -0.5, "repetition_penalty": 1.3},
    {"num_beams": 5, "length_penalty": 0.0, "max_new_tokens": 3},
    {"num_beams": 3, "early_stopping": True, "max_new_tokens": 12},
)


def loops(ways: tuple[dict[str, Any], ...], stops: tuple[int, ...], limit: int) -> dict[str, Any]:
    """What the generation loop gives over a toy model, for a batch padded on the left and for one prompt."""
    vocab = 24
    cases = []
    for way in ways:
        way = {"do_sample": False, **way} if "num_beams" in way else way
        params = GenerationParams(**way, eos_token_ids=stops, pad_token_id=-1)
        for batch in (PROMPTS, PROMPTS[1:2]):
            used, mask = pad_left(batch, 0)
            columns = list(generate(ToyBackend(vocab, limit), used, mask, params))
            full = {"temperature": params.temperature, "top_k": params.top_k, "top_p": params.top_p}
            cases.append({"params": {**full, **way}, "prompts": batch, "columns": columns})
    shared = {"vocab": vocab, "max_sequence_length": limit, "stop_token_ids": stops}
    return {"kind": "loop", **shared, "cases": cases}


def cut(answer: str, size: int) -> list[str]:
    """Pieces of so many characters; a special token is one piece, as it is one token."""
    found = []
    for part in re.split(r"(<\|\w+\|>)", answer):
        length = len(part) if part.startswith("<|") else size
        found += [part[start : start + length] for start in range(0, len(part), length)]
    return found


def responses() -> dict[str, Any]:
    cases = []
    for template in (CHATGLM, CHATGLM2, CHATGLM3):
        for answer in ANSWERS:
            for size in (1, 3):
                stream = StreamingResponseParser(template)
                pieces = [[piece, stream.push(piece)] for piece in cut(answer, size)]
                rest = stream.finish()
                found = {"pieces": pieces, "rest": rest, "messages": stream.messages()}
                cases.append({"template": template.to_dict(), **found})
    return {"kind": "response", "cases": cases}


def texts(families: dict[str, Tokenizer], file: str) -> dict[str, Any]:
    """Prompts, texts and streams of tokenizers that share one SentencePiece model."""
    cases: list[dict[str, Any]] = []
    for family, tokenizer in families.items():
        random = np.random.default_rng(0)
        streams: list[tuple[str | None, list[int]]] = [(text, tokenizer.text_to_ids(text)) for text in TEXTS]
        streams += [(None, random.integers(0, tokenizer.vocab_size + 4, 30).tolist()) for _ in range(12)]
        byte = tokenizer.convert_token_to_id("<0xE4>")
        streams += [(None, [byte] * 9), (None, [byte, byte - 0xE4 + 0xBD, byte - 0xE4 + 0xA0])]
        for text, ids in streams:
            stream = StreamingDetokenizer(tokenizer.decode)
            pieces = [stream.push([token]) for token in ids]
            case = {"ids": ids, "decoded": tokenizer.decode(ids), "pieces": pieces, "rest": stream.finish()}
            cases.append({"family": family, **case, **({} if text is None else {"text": text})})
        conversations = [*CONVERSATIONS, WITH_TOOLS] if family == "chatglm3" else CONVERSATIONS
        for messages in conversations:
            ids = render(tokenizer.template, tokenizer, messages).input_ids
            cases.append({"family": family, "messages": messages, "ids": ids})
    facts = {
        family: {
            "spelling": tokenizer.tokenizer_spec(),
            "special_tokens": tokenizer.special_tokens,
            "template": tokenizer.template.to_dict(),
        }
        for family, tokenizer in families.items()
    }
    return {"kind": "text", "file": file, "tokenizers": facts, "cases": cases}


def rows() -> dict[str, Any]:
    """What `load_examples` makes of rows that are to be answered; `refused`: it raises InputError."""
    cases: list[dict[str, Any]] = []
    for columns, lines in ROW_CASES:
        case: dict[str, Any] = {"columns": columns, "rows": lines}
        with TemporaryDirectory() as folder:
            path = Path(folder) / "rows.json"
            path.write_text(json.dumps(lines), encoding="utf-8")
            try:
                examples = load_examples(path, columns and Columns(**columns), require_answer=False)
            except InputError:
                case["refused"] = True
            else:
                read = [
                    {"question": list(map(_fields, x.prompt_messages)), "answer": x.answer} for x in examples
                ]
                case["read"] = read
        cases.append(case)
    return {"kind": "rows", "cases": cases}


def _fields(message: dict[str, Any]) -> list[str]:
    """A message as the C++ program holds it."""
    tools = (
        json.dumps(message["tools"], ensure_ascii=False, separators=(",", ":")) if "tools" in message else ""
    )
    return [message["role"], message["content"], message.get("metadata", ""), tools]


def mkl() -> dict[str, Any]:
    cases: list[dict[str, Any]] = []
    for cpuinfo, environment in MKL_CASES:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "cpuinfo"
            if cpuinfo is not None:
                path.write_text(cpuinfo, encoding="utf-8")
            after = dict(environment)
            choose_instructions(after, path)
        cases.append({"cpuinfo": cpuinfo, "environment": environment, "value": after.get(MKL_VARIABLE)})
    return {"kind": "mkl", "cases": cases}


def goldens() -> dict[str, dict[str, Any]]:
    """Contents by file name."""
    both = {
        name: get_family(name).tokenizer_class().from_pretrained(FOLDER / MODEL)
        for name in ("chatglm2", "chatglm3")
    }
    return {
        "sampling.json": sampling(),
        "random.json": random_numbers(),
        "positions.json": positions(),
        "loop.json": loops(SAMPLING_CASES, (1, 2), 60),
        "beam.json": loops(BEAM_SEARCH_CASES, (1, 2, 3), 30),
        "mkl.json": mkl(),
        "response.json": responses(),
        "rows.json": rows(),
        "text.json": texts(both, MODEL),
    }


def write(path: Path, values: dict[str, Any]) -> Path:
    """One case per line."""
    cases = values.pop("cases")
    head = json.dumps(values, ensure_ascii=False, default=_to_python)[:-1]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, default=_to_python) for case in cases)
    path.write_text(f'{head}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")
    return path


def _to_python(value: Any) -> Any:
    return value.tolist()  # arrays and numbers of numpy; float32 becomes the double of the same value


def main(folder: Path) -> None:
    if folder != FOLDER:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FOLDER / MODEL, folder / MODEL)
    for name, values in goldens().items():
        write(folder / name, values)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
