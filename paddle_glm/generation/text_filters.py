"""`ChatTemplate.process_response` for text that arrives in pieces; each piece is read once.

A filter passes text on as soon as it is final. What the filters of an answer give, joined, is what
`process_response` gives for the whole text.
"""

import re
from collections.abc import Sequence
from typing import Protocol

from paddle_glm.chat_template import CHINESE_CHARACTER, ChatTemplate


class TextFilter(Protocol):
    """Pieces of text -> pieces of changed text."""

    def push(self, text: str) -> str:
        """Take more text; return what has become final, often empty."""

    def finish(self) -> str:
        """The rest, after the last text."""


class Strip:
    """Drops leading white space; withholds white space until more follows."""

    def __init__(self) -> None:
        self._began, self._space = False, ""

    def push(self, text: str) -> str:
        text = self._space + text if self._began else text.lstrip()
        final = text.rstrip()
        self._began = self._began or bool(final)
        self._space = text[len(final) :]
        return final

    def finish(self) -> str:
        return ""


class Replace:
    """Replaces a text; withholds what may be its beginning."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new, self._pending = old, new, ""

    def push(self, text: str) -> str:
        *found, rest = (self._pending + text).split(self._old)
        kept = len(rest) - begun_length(rest, self._old)
        self._pending = rest[kept:]
        return self._new.join([*found, rest[:kept]])

    def finish(self) -> str:
        return self._pending


class Widen:
    """Makes punctuation next to Chinese characters full-width; withholds it until both neighbours are known.

    pairs: (ASCII character, full-width character).
    """

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._wide = dict(pairs)
        marks = re.escape("".join(self._wide))
        self._beside = re.compile(
            f"(?<={CHINESE_CHARACTER})[{marks}]|[{marks}](?={CHINESE_CHARACTER})" if marks else "(?!)"
        )
        self._pending, self._before = "", ""  # _before: the last character that was given out

    def push(self, text: str) -> str:
        text = self._before + self._pending + text
        widened = self._beside.sub(lambda found: self._wide[found[0]], text)
        self._pending = widened[-1:] if widened[-1:] in self._wide else ""
        final = widened[: len(widened) - len(self._pending)]
        before, self._before = len(self._before), final[-1:]
        return final[before:]

    def finish(self) -> str:
        return self._pending


class ResponseFilter:
    """The filters of a template's answers, one behind the other."""

    def __init__(self, template: ChatTemplate) -> None:
        replacements = [Replace(*pair) for pair in template.replacements]
        self._filters: list[TextFilter] = [Strip(), *replacements, Widen(template.wide_punctuation)]

    def push(self, text: str) -> str:
        for one in self._filters:
            text = one.push(text)
        return text

    def finish(self) -> str:
        rest = ""
        for one in self._filters:
            rest = one.push(rest) + one.finish()
        return rest


def begun_length(text: str, wanted: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `wanted`."""
    sizes = range(min(len(wanted) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(wanted[:size])), 0)
