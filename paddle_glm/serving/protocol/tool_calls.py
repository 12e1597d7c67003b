"""Tool calls in OpenAI's protocol, for ChatGLM3: declarations, calls and results."""

import json
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from paddle_glm.chat_template import ChatTemplate, Message, RoleTemplate
from paddle_glm.errors import InputError
from paddle_glm.generation.response_parser import parse_tool_call
from paddle_glm.serving.protocol.strict_json import LenientModel, StrictModel
from paddle_glm.tokenizers.base import Tokenizer

# System prompt before the tool declarations, as in training (THUDM's openai_api.py of ChatGLM3).
TOOLS_PREAMBLE = "Answer the following questions as best as you can. You have access to the following tools:"
TOOL_RESULT_ROLE = "observation"


class FunctionDefinition(LenientModel):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(StrictModel):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(LenientModel):
    name: str


class NamedTool(StrictModel):
    """A `tool_choice` by name."""

    type: Literal["function"]
    function: FunctionName


class FunctionCall(LenientModel):
    name: str
    arguments: str


class ToolCall(LenientModel):
    """A tool call of an earlier answer, returned by the client."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall

    def to_message(self) -> Message:
        """The call in the model's format. Raises `InputError` if the arguments are not a JSON object."""
        try:
            values = json.loads(self.function.arguments)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise InputError(f"arguments is {self.function.arguments!r}: expected the text of a JSON object")
        written = ", ".join(f"{name}={value!r}" for name, value in values.items())
        content = f"```python\ntool_call({written})\n```"
        return {"role": "assistant", "metadata": self.function.name, "content": content}


def add_tool_declarations(
    messages: list[Message], tools: Sequence[Tool], template: ChatTemplate
) -> list[Message]:
    """Add the tool declarations to the system message.

    Raises `InputError` for a chat template without tools.
    """
    if not isinstance(template, RoleTemplate) or TOOL_RESULT_ROLE not in dict(template.roles):
        raise InputError(f"tools: {template.name} was not trained to call any (ChatGLM3 was)")
    declared = [tool.function.model_dump(exclude_none=True) for tool in tools]
    content = TOOLS_PREAMBLE
    if messages[0]["role"] == "system":
        content, messages = f"{messages[0]['content']}\n{content}", messages[1:]
    return [{"role": "system", "content": content, "tools": declared}, *messages]


def begun_call_ids(name: str, template: ChatTemplate, tokenizer: Tokenizer) -> list[int]:
    """What an answer that calls the tool `name` begins with."""
    assert isinstance(template, RoleTemplate)  # as `add_tool_declarations` has checked
    return tokenizer.encode(template.header.format(metadata=name), add_special_tokens=False)


def extract_tool_calls(messages: Sequence[Message]) -> list[dict[str, Any]] | None:
    """Tool calls of an answer in OpenAI's format; None if it does not end with a valid call."""
    if not messages[-1].get("metadata"):
        return None
    call = parse_tool_call(messages[-1])
    if "parameters" not in call:
        return None
    function = {"name": call["name"], "arguments": json.dumps(call["parameters"], ensure_ascii=False)}
    return [{"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}]
