"""What a web page chats with, a local model or a remote server, and the sliders' initial values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationParams, Session
from paddle_glm.models.family import family_of
from paddle_glm.serving.batching.request_sampling import sampling_values
from paddle_glm.serving.batching.scheduler import Scheduler
from paddle_glm.serving.batching.streaming import LocalSession
from paddle_glm.serving.client import RemoteSession, request_fields

DEFAULT_MAX_NEW_TOKENS = 1024
SLIDER_MAX_NEW_TOKENS, SLIDER_MAX_TEMPERATURE = 8192, 2.0  # unless the initial value is larger


@dataclass(frozen=True)
class ChatProvider:
    """Opens chat sessions.

    temperature, top_p, max_new_tokens: initial slider values; temperature 0 means greedy decoding.
    models: names to choose from, the first by default: a model, and adapters of it.
    open: maps these three values, by name, and one of `models` to a new session; raises `InputError` for
    another name. close: releases the model.
    """

    title: str
    models: tuple[str, ...]
    temperature: float
    top_p: float
    max_new_tokens: int
    open: Callable[[Mapping[str, Any], str], Session]
    close: Callable[[], None]

    @property
    def slider_max_temperature(self) -> float:
        return max(SLIDER_MAX_TEMPERATURE, self.temperature)

    @property
    def slider_max_new_tokens(self) -> int:
        return max(SLIDER_MAX_NEW_TOKENS, self.max_new_tokens)


def local_provider(scheduler: Scheduler, params: GenerationParams, name: str | None = None) -> ChatProvider:
    """A provider of a model in this process; `params` sets what the sliders do not.

    name: of the model, for the choice among its adapters; None: the family's title.
    """
    title = family_of(scheduler.engine.backend.config).title
    models = (name or title, *scheduler.engine.backend.adapter_names)

    def open_session(values: Mapping[str, Any], model: str) -> Session:
        _check_is_known(model, models)
        adapter = None if model == models[0] else model
        return LocalSession(scheduler, params.updated(sampling_values(values)), adapter)

    temperature = params.temperature if params.do_sample else 0.0
    most = params.max_new_tokens or DEFAULT_MAX_NEW_TOKENS
    return ChatProvider(title, models, temperature, params.top_p, most, open_session, scheduler.close)


def remote_provider(session: RemoteSession, given: GenerationParams) -> ChatProvider:
    """A provider of a server's model; `session` holds the request fields that the sliders do not set."""

    def open_session(values: Mapping[str, Any], model: str) -> Session:
        _check_is_known(model, session.models)
        return RemoteSession(session.client, model, {**session.fields, **request_fields(values)})

    temperature = given.temperature if given.do_sample else 0.0
    most = given.max_new_tokens or DEFAULT_MAX_NEW_TOKENS
    return ChatProvider(
        session.model, session.models, temperature, given.top_p, most, open_session, session.client.close
    )


def _check_is_known(model: str, models: tuple[str, ...]) -> None:
    if model not in models:
        raise InputError(f"the model {model!r} does not exist: expected one of {', '.join(models)}")
