"""`AutoConfig`: a configuration whose attributes can be set, as in transformers."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.hub import resolve_model_folder
from paddle_glm.pretrained_kwargs import supported_kwargs

_ALIASES = {"torch_dtype": "dtype"}
_FIELDS = tuple(field.name for field in fields(ModelConfig))


class AutoConfig(ModelConfig):
    """A mutable `ModelConfig`, to be changed before loading: `config.pre_seq_len = 128`.

    It equals the `ModelConfig` of the same values. Keys of the file that are not used here
    (`auto_map`) can be read.
    """

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        family: str | None = None,
        revision: str | None = None,
        download: bool | str | None = None,
        cache_dir: str | Path | None = None,
        **keywords: Any,
    ) -> "AutoConfig":
        """Read `folder/config.json`; `family` overrides what the files say.

        revision, download, cache_dir: as for `hub.resolve_model_folder`. keywords: attributes to set, such as
        `pre_seq_len=128`; `trust_remote_code` and similar ones have no effect: code in a folder is never run.
        Raises `InputError` for any other keyword, and as `ModelConfig.from_pretrained` does.
        """
        config = super().from_pretrained(resolve_model_folder(folder, download, revision, cache_dir), family)
        assert isinstance(config, AutoConfig)
        for name, value in supported_kwargs(keywords, (*_FIELDS, *_ALIASES)).items():
            setattr(config, name, value)
        return config

    def to_model_config(self) -> ModelConfig:
        """An immutable copy."""
        return ModelConfig(**{name: getattr(self, name) for name in _FIELDS})

    def __setattr__(self, name: str, value: Any) -> None:
        name = _ALIASES.get(name, name)
        if name not in _FIELDS:
            raise InputError(f"a configuration has no {name!r} to set: it has {', '.join(_FIELDS)}")
        if name == "dtype":
            value = str(value).rpartition(".")[2]
        ModelConfig(
            **{**{field: getattr(self, field) for field in _FIELDS}, name: value}
        )  # raises for a bad value
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        values = {} if name.startswith("__") else self.to_hub_dict()
        if name not in values:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return values[name]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelConfig):
            return NotImplemented
        return self.to_model_config() == (other.to_model_config() if isinstance(other, AutoConfig) else other)

    def __hash__(self) -> int:
        return hash(self.to_model_config())
