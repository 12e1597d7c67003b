"""`tokenizer_config.json` and its companions: what each of their keys does."""

import json
from pathlib import Path

import pytest

from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.errors import InputError
from paddle_glm.key_rules import Ignored, Mapped
from paddle_glm.models.registry import family_names
from paddle_glm.tiny.checkpoint import write_checkpoint

TEXT = "类型#裙*  Hello"


@pytest.fixture(scope="module", params=family_names())
def folder(request: pytest.FixtureRequest, tiny_rows: list, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / request.param
    texts = [text for row in tiny_rows for text in row.values()]
    sizes = {"num_layers": 1, "hidden_size": 16, "ffn_hidden_size": 16}
    write_checkpoint(path, texts, request.param, vocab_size=512, **sizes)
    return path


@pytest.fixture
def say(folder: Path, tmp_path: Path):
    """The folder's tokenizer, with other values in its files."""

    def opened(added: dict | None = None, **values: object):
        for name in ("config.json", "tokenizer_config.json", "tokenizer.model", "ice_text.model"):
            if (folder / name).is_file():
                (tmp_path / name).write_bytes((folder / name).read_bytes())
        path = tmp_path / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        if added is not None:
            (tmp_path / "added_tokens.json").write_text(json.dumps(added))
        return AutoTokenizer.from_pretrained(tmp_path)

    return opened


def test_a_key_is_refused_or_changes_nothing(folder: Path, say) -> None:
    plain = AutoTokenizer.from_pretrained(folder)
    for key, rule in plain.config_rules.items():
        if isinstance(rule, Ignored):
            assert say(**{key: "anything"}).encode(TEXT) == plain.encode(TEXT) and rule.reason
            continue
        with pytest.raises(InputError, match=rf"{key}( = | is )\{{?'else'"):
            say(**{key: "else"})
        if not isinstance(rule, Mapped):
            for allowed in rule.allowed:
                assert say(**{key: allowed}).encode(TEXT) == plain.encode(TEXT)
    say(somebodys_own=[1])


def test_tokens_that_the_files_add_are_the_familys_own(folder: Path, say) -> None:
    plain = AutoTokenizer.from_pretrained(folder)
    token = plain.command_tokens[-1]
    index = plain.get_command(token)
    same = say(
        added={token: index},
        added_tokens_decoder={str(index): {"content": token, "special": True}},
        additional_special_tokens=[token, {"content": plain.command_tokens[0]}],
    )
    assert same.encode(TEXT) == plain.encode(TEXT)
    for values in (
        {"added_tokens_decoder": {str(index): {"content": "<|mine|>"}}},
        {"added_tokens_decoder": {str(index - 1): {"content": token}}},
        {"additional_special_tokens": ["<|mine|>"]},
        {"added": {"<|mine|>": 9999}},
    ):
        with pytest.raises(InputError, match=r"adds the token '.*special tokens of chatglm.* are supported"):
            say(**values)
        for path in Path(same.model_file).parent.glob("added_tokens.json"):
            path.unlink()
    with pytest.raises(InputError, match=r"added_tokens_decoder = \['a'\]: expected ids and their tokens"):
        say(added_tokens_decoder=["a"])
