"""Resolve a model's name to a folder; the only place that contacts model hubs.

A local folder is used as it is. A hub name, OWNER/MODEL, is downloaded on request by the hub's own package
into that package's cache. Code files are not downloaded.
"""

import os
import re
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from paddle_glm.errors import InputError

HUB_VARIABLE = "PADDLE_GLM_HUB"  # the hub of `download=True`
DOWNLOAD_HELP = (
    "download a model that is no local folder, from this hub (default: $PADDLE_GLM_HUB or huggingface)"
)
REVISION_HELP = "branch, tag or commit on the hub"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Accepted for local folders, which have only one revision.
_DEFAULT_REVISIONS = (None, "main", "master")
# Owners whose models have another owner on ModelScope.
_MODELSCOPE_OWNERS = {"THUDM": "ZhipuAI", "zai-org": "ZhipuAI"}
# Files that are downloaded first; then, without safetensors, the weights in older formats.
_MODEL_PATTERNS = ["*.json", "*.model", "*.safetensors", "*LICENSE*"]
_IGNORE_PATTERNS = ["manifest.json"]  # lists files that are not downloaded
_LEGACY_WEIGHT_PATTERNS = ["pytorch_model*.bin", "model_state*.pdparams"]


def resolve_model_folder(
    name: str | Path,
    download: bool | str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The local folder `name`, or else the downloaded folder of the hub name `name`.

    download: "huggingface", "modelscope", or True for the hub in the environment variable PADDLE_GLM_HUB
    (default huggingface); cached files are not downloaded again. revision: branch, tag or commit. cache_dir:
    replaces the hub's own cache. A missing path that is no hub name is returned for the caller to check.
    Raises `InputError` for a hub name without `download`, with the commands that fetch it; if a download
    fails; and for a revision of a local folder.
    """
    path = Path(name)
    hub = _selected_hub(download)
    if path.exists():
        if revision not in _DEFAULT_REVISIONS:
            raise InputError(
                f"revision {revision!r}: {name} is a local folder, which has one revision; leave it out, or "
                "give the hub's name and download"
            )
        return path
    if not _REPO_ID.fullmatch(str(name)):
        if hub is not None:
            raise InputError(f"{name} is not a hub name: expected OWNER/MODEL, such as THUDM/chatglm2-6b")
        return path
    if hub is None:
        raise InputError(_download_hint(str(name), revision))
    return _download(hub, str(name), revision, cache_dir)


def _selected_hub(download: bool | str | None) -> str | None:
    """The hub to download from, or None; `true` in a YAML file may arrive as text."""
    if isinstance(download, str) and download.lower() in ("true", "false"):
        download = download.lower() == "true"
    if not download:
        return None
    hub = os.environ.get(HUB_VARIABLE, "huggingface") if download is True else download
    if hub not in HUBS:
        source = f"{HUB_VARIABLE}={hub}" if download is True else f"download {hub!r}"
        raise InputError(f"{source}: expected one of {', '.join(HUBS)}")
    return hub


def _download_hint(name: str, revision: str | None) -> str:
    option = f" --revision {revision}" if revision else ""
    return (
        f"{name} is not a local folder. Download it with `hf download {name}{option} --local-dir {name}` or "
        f"`modelscope download --model {modelscope_name(name)}{option} --local_dir {name}`, or with "
        "--download (in Python download=True)"
    )


def modelscope_name(name: str) -> str:
    """ModelScope's name of a model on Hugging Face."""
    owner, _, model = name.partition("/")
    return f"{_MODELSCOPE_OWNERS.get(owner, owner)}/{model}"


def _download(hub: str, name: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    title, to_repo_id = HUBS[hub]
    try:
        package = import_module({"huggingface": "huggingface_hub"}.get(hub, hub))
    except ModuleNotFoundError as error:
        raise InputError(
            f"the package {error.name} is missing: pip install -c constraints.txt -e '.[hub]'"
        ) from error
    fetch = partial(
        package.snapshot_download,
        to_repo_id(name),
        revision=revision,
        cache_dir=None if cache_dir is None else str(cache_dir),
        ignore_patterns=_IGNORE_PATTERNS,
    )
    try:
        folder = Path(fetch(allow_patterns=_MODEL_PATTERNS))
        if not any(folder.glob("*.safetensors")):
            folder = Path(fetch(allow_patterns=_LEGACY_WEIGHT_PATTERNS))
    except Exception as error:  # both packages raise their own classes, requests' and the system's
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{to_repo_id(name)} could not be downloaded from {title}: {reason} (check the name and the "
            f"network, or try the other hub: --download {_other_hub(hub)})"
        ) from error
    if not (folder / "config.json").is_file():
        raise InputError(f"{to_repo_id(name)} on {title} has no config.json: is it a model?")
    return folder


def _other_hub(hub: str) -> str:
    return next(name for name in HUBS if name != hub)


# Hub -> its title, and a function that maps a model's name to its own.
HUBS: dict[str, tuple[str, Callable[[str], str]]] = {
    "huggingface": ("Hugging Face", str),
    "modelscope": ("ModelScope", modelscope_name),
}
