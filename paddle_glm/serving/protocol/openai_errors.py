"""Errors in OpenAI's format."""

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

TOO_LONG_CODE = "context_length_exceeded"  # OpenAI's, for a prompt that leaves no room for an answer

_SHORT = reprlib.Repr()  # of values in messages: `repr` has no limit of length and depth
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 3, 80, 80, 80


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def validation_message(errors: Sequence[Mapping[str, Any]], known: Sequence[str]) -> tuple[str, str | None]:
    """The most specific of pydantic's errors as (one line that names the value, field).

    known: all fields of the request, for suggesting the nearest one.
    """
    first = max(errors, key=lambda error: len(error["loc"]))  # of a union's alternatives, the closest
    # FastAPI prepends "body"; a union appends the alternatives it tried.
    place = [part for part in first["loc"] if part != "body"]
    names = [str(part) for part in place if isinstance(part, int) or (part.isidentifier() and part != "str")]
    param = ".".join(names) or None
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        near = difflib.get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{param or repr(name)} is not a field of the request{hint}", param
    if first["type"] == "missing":
        return f"{param or 'the body'} is missing: expected JSON with {', '.join(known[:2])}", param
    if first["type"] == "json_invalid":
        return f"the body is not valid JSON: {first.get('ctx', {}).get('error', first['msg'])}", None
    given = _SHORT.repr(first.get("input"))
    return f"{param or 'the body'} is {given}: {first['msg'][:1].lower()}{first['msg'][1:]}", param
