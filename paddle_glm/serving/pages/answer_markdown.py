"""Answers as Markdown for web pages."""

import re
from dataclasses import dataclass
from functools import partial

# What an answer may contain, in the order in which it is recognised.
_PARTS = re.compile(
    r"(?P<fence>^[ ]{0,3}(?P<marks>`{3,}|~{3,}).*?(?:^[ ]{0,3}(?P=marks)[`~]*[ \t]*$|\Z))"
    r"|(?P<code>(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))"
    r"|\\\[(?P<display>.+?)\\\]"
    r"|\\\((?P<inline>.+?)\\\)"
    r"|\$\$(?P<dollars2>.+?)\$\$"
    r"|(?<![\\$])\$(?P<dollars1>(?=[^\s$])[^$\n]*?(?<=[^\s\\$]))\$(?!\d)"
    r"|(?P<dollar>(?<!\\)\$)"
    r"|(?P<image>!(?=\[))"
    r"|(?P<tag><(?=[A-Za-z/!?]))"
    r"|(?P<line_end>(?<=\S)\n)",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Formulas:
    """How a page's Markdown marks formulas: (left, right).

    escapes_dollars: a dollar that belongs to no formula needs a backslash.
    """

    inline: tuple[str, str] = ("$", "$")
    display: tuple[str, str] = ("$$", "$$")
    escapes_dollars: bool = True


def to_markdown(text: str, formulas: Formulas = Formulas()) -> str:
    """An answer as Markdown that loads nothing from other hosts.

    Formulas are marked as the page expects it, single line ends stay, and outside code images and HTML are
    shown as they are written.
    """
    return _PARTS.sub(partial(_part, formulas), text)


def _part(formulas: Formulas, match: re.Match[str]) -> str:
    whole = match[0]
    if formula := match["display"]:
        return "\n\n" + f"\n{formula.strip()}\n".join(formulas.display) + "\n\n"
    if formula := match["dollars2"]:
        return formula.join(formulas.display)
    if formula := match["inline"] or match["dollars1"]:
        return formula.strip().join(formulas.inline)
    if match["image"] or match["tag"] or (match["dollar"] and formulas.escapes_dollars):
        return "\\" + whole
    return "  \n" if match["line_end"] else whole
