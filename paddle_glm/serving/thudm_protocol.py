"""Protocol of THUDM's api.py: POST / with prompt and history."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from paddle_glm.chat_template import ChatTemplate, Message, messages_from_history
from paddle_glm.generation import GenerationOutput, GenerationParams
from paddle_glm.generation.response_parser import chat_result
from paddle_glm.serving.request_sampling import sampling_values


class THUDMRequest(BaseModel):
    """Request body. null means api.py's default; unknown fields are ignored, as in api.py.

    history: (question, answer) pairs, or ChatGLM3's messages, as returned by the previous response.
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
        """Parameters of the request; `defaults` (the folder's) for fields that api.py does not have.

        A temperature of 0 turns sampling off.

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
