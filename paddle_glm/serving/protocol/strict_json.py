"""JSON bodies: only what RFC 8259 allows is read, and all that was read can be written."""

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field


class StrictModel(BaseModel):
    """A JSON object whose values have the declared types, not such as convert to them; no other fields."""

    model_config = ConfigDict(strict=True, extra="forbid")


class LenientModel(BaseModel):
    """The same, but other fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


def example(**fields: Any) -> ConfigDict:
    """A model's configuration with an example in /openapi.json."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


def limited(**schema: Any) -> Any:
    """An optional field with limits in /openapi.json; what checks them names the value and the limit."""
    return Field(default=None, json_schema_extra=schema)


class StrictJSONRoute(APIRoute):
    """A route whose requests are refused (400) for NaN, infinities and numbers that exceed a float."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_StrictJSONRequest(request.scope, request.receive))

        return handle


class _StrictJSONRequest(Request):
    async def json(self) -> Any:
        return json.loads(await self.body(), parse_constant=_refuse, parse_float=_finite)


class UTF8JSONResponse(JSONResponse):
    """JSON in UTF-8; half of a surrogate pair, which UTF-8 does not have, is escaped as in the request."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:
        return dump_json(content).encode("utf-8", "backslashreplace")


def dump_json(content: Any) -> str:
    """One line of JSON, without escapes of what is not ASCII."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _refuse(constant: str) -> NoReturn:
    raise json.JSONDecodeError(f"{constant} is not a JSON value", constant, 0)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise json.JSONDecodeError(f"{digits[:40]} is too large a number", digits, 0)
    return value
