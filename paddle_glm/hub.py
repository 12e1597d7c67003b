"""From what a user calls a model to the folder that holds it; the one place that talks to hubs.

A folder is taken as it is. A hub's name, OWNER/MODEL, is fetched where that is asked for, by the hub's own
package, into that package's cache. Code in a hub's folder is not fetched.
"""

import os
import re
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from paddle_glm.errors import InputError

HUB_VARIABLE = "PADDLE_GLM_HUB"  # which hub `download=True` means
DOWNLOAD_HELP = (
    "fetch a model whose name is no folder here, from the hub given (default: $PADDLE_GLM_HUB or huggingface)"
)
REVISION_HELP = "branch, tag or commit on the hub"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What a local folder may be called without a hub being asked for.
_DEFAULT_REVISIONS = (None, "main", "master")
# Owners whose models have another owner on ModelScope.
_MODELSCOPE_OWNERS = {"THUDM": "ZhipuAI", "zai-org": "ZhipuAI"}
# What is read of a model, and its licence; then the weights of folders without safetensors.
_MODEL_PATTERNS = ["*.json", "*.model", "*.safetensors", "*LICENSE*"]
_IGNORE_PATTERNS = ["manifest.json"]  # of folders that we wrote: it names files that are not fetched
_LEGACY_WEIGHT_PATTERNS = ["pytorch_model*.bin", "model_state*.pdparams"]


def resolve_model_folder(
    name: str | Path,
    download: bool | str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The folder that `name` means: itself where it exists, else what a hub has under that name.

    download: True fetches from the hub that the environment variable PADDLE_GLM_HUB names (huggingface where
    it is not set), "huggingface" or "modelscope" from that one; what has been fetched is not fetched again.
    revision: branch, tag or commit there. cache_dir: where to keep it in the place of the hub's own cache.
    A path that does not exist and is no hub's name is given back for the caller to judge. Raises
    `InputError` for a hub's name without `download`, with the commands that fetch it; where fetching fails;
    for a revision of a local folder, which holds one alone.
    """
    path = Path(name)
    hub = _selected_hub(download)
    if path.exists():
        if revision not in _DEFAULT_REVISIONS:
            raise InputError(
                f"revision {revision!r}: {name} is a folder here and holds one revision; leave it out, or "
                "give the hub's name and download"
            )
        return path
    if not _REPO_ID.fullmatch(str(name)):
        if hub is not None:
            raise InputError(f"{name} is no hub's name: expected OWNER/MODEL, such as THUDM/chatglm2-6b")
        return path
    if hub is None:
        raise InputError(_download_hint(str(name), revision))
    return _download(hub, str(name), revision, cache_dir)


def _selected_hub(download: bool | str | None) -> str | None:
    """The hub to fetch from, None for none; a YAML file's `true` may arrive as text."""
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
    wanted = f" --revision {revision}" if revision else ""
    return (
        f"{name} is no folder here. Fetch it by `hf download {name}{wanted} --local-dir {name}` or "
        f"`modelscope download --model {modelscope_name(name)}{wanted} --local_dir {name}`, or let "
        "--download (in Python download=True) do it"
    )


def modelscope_name(name: str) -> str:
    """What ModelScope calls a model of Hugging Face's."""
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
    except Exception as error:  # both packages raise classes of their own, requests' and the system's
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{to_repo_id(name)} could not be fetched from {title}: {reason} (is the name right and the "
            f"network there? the other hub: --download {_other_hub(hub)})"
        ) from error
    if not (folder / "config.json").is_file():
        raise InputError(f"{to_repo_id(name)} on {title} holds no config.json: is it a model?")
    return folder


def _other_hub(hub: str) -> str:
    return next(name for name in HUBS if name != hub)


# Hub -> how to call it, and what it calls a model.
HUBS: dict[str, tuple[str, Callable[[str], str]]] = {
    "huggingface": ("Hugging Face", str),
    "modelscope": ("ModelScope", modelscope_name),
}
