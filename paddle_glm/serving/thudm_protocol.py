"""The protocol of THUDM's api.py: POST / with prompt and history."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from paddle_glm.chat_template import ChatTemplate, Message, messages_from_history
from paddle_glm.generation import GenerationOutput, GenerationParams
from paddle_glm.generation.response_parser import chat_result
from paddle_glm.serving.request_sampling import sampling_values


class THUDMRequest(BaseModel):
    """The defaults are api.py's, also for null; other fields are left alone, as there.

    history: (question, answer) pairs, or ChatGLM3's messages, as the last response gave it.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    prompt: str
    history: list[list[str] | dict[str, Any]] | None = None
    max_length: int | None = None
    top_p: float | None = None
    temperature: float | None = None

    def to_messages(self) -> list[Message]:
        return messages_from_history(self.prompt, self.history)

    def to_params(self, defaults: GenerationParams) -> GenerationParams:
        """defaults: those of the folder, for what api.py leaves open. A temperature of 0 turns sampling off.

        Raises `InputError` for invalid values.
        """
        given = {name: getattr(self, name) for name in ("max_length", "top_p", "temperature")}
        values = {"max_length": 2048, "top_p": 0.7, "temperature": 0.95}
        values |= {name: value for name, value in given.items() if value is not None}
        return defaults.updated(sampling_values(values))


def thudm_response(
    template: ChatTemplate, request: THUDMRequest, messages: list[Message], reply: GenerationOutput
) -> dict[str, Any]:
    response, history = chat_result(template, request.prompt, request.history, messages, reply.messages)
    return {
        "response": response,
        "history": history,
        "status": 200,
        "time": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
    }
