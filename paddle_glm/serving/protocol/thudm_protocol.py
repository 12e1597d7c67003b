"""Protocol of THUDM's api.py: POST / with prompt and history."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict

from paddle_glm.chat_template import ChatTemplate, Message, messages_from_history
from paddle_glm.generation import GenerationOutput, GenerationParams
from paddle_glm.generation.response_parser import chat_result
from paddle_glm.serving.batching.request_sampling import sampling_values
from paddle_glm.serving.protocol.strict_json import LenientModel, example, limited


class THUDMRequest(LenientModel):
    """Request body. null means api.py's default; unknown fields are ignored, as in api.py.

    history: (question, answer) pairs, or ChatGLM3's messages, as returned by the previous response.
    """

    model_config = ConfigDict(allow_inf_nan=False) | example(prompt="你好", history=[], max_length=64)

    prompt: str
    history: list[list[str] | dict[str, Any]] | None = None
    max_length: int | None = limited(minimum=1)
    top_p: float | None = limited(exclusiveMinimum=0, maximum=1)
    temperature: float | None = limited(minimum=0)

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
