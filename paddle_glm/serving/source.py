"""What a web page talks with: a model here or a server elsewhere, and where its sliders begin."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from paddle_glm.families import family_of
from paddle_glm.generation import GenerationParams, Session
from paddle_glm.serving.client import RemoteSession, request_fields
from paddle_glm.serving.live import LocalSession
from paddle_glm.serving.sampling import sampling_values
from paddle_glm.serving.scheduler import Scheduler

NEW_TOKENS = 1024  # of an answer, where nothing says otherwise
MOST_NEW_TOKENS, MOST_TEMPERATURE = 8192, 2.0  # where the sliders end, unless they begin above


@dataclass(frozen=True)
class Source:
    """temperature, top_p, max_new_tokens: the sliders' first values; a temperature of 0 does not sample.

    open: values of the three by these names -> a session of its own, so that visitors do not share one.
    close: to be called when there are no more visitors.
    """

    title: str
    temperature: float
    top_p: float
    max_new_tokens: int
    open: Callable[[Mapping[str, Any]], Session]
    close: Callable[[], None]

    @property
    def most_temperature(self) -> float:
        return max(MOST_TEMPERATURE, self.temperature)

    @property
    def most_new_tokens(self) -> int:
        return max(MOST_NEW_TOKENS, self.max_new_tokens)


def local_source(scheduler: Scheduler, params: GenerationParams) -> Source:
    """A model in this process; `params` says what the sliders do not."""

    def open_session(values: Mapping[str, Any]) -> Session:
        return LocalSession(scheduler, params.updated(sampling_values(values)))

    title = family_of(scheduler.engine.backend.config).title
    temperature = params.temperature if params.do_sample else 0.0
    most = params.max_new_tokens or NEW_TOKENS
    return Source(title, temperature, params.top_p, most, open_session, scheduler.close)


def remote_source(session: RemoteSession, given: GenerationParams) -> Source:
    """A server's model; `session` holds the fields of requests that the sliders do not."""

    def open_session(values: Mapping[str, Any]) -> Session:
        fields = {**session.fields, **request_fields(values)}
        return RemoteSession(session.client, session.model, fields)

    temperature = given.temperature if given.do_sample else 0.0
    most = given.max_new_tokens or NEW_TOKENS
    return Source(session.model, temperature, given.top_p, most, open_session, session.client.close)
