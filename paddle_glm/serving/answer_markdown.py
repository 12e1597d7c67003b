"""Answers as Markdown for web pages."""

import re

# What an answer may contain, in the order in which it is recognised.
_PARTS = re.compile(
    r"(?P<fence>^[ ]{0,3}(?P<marks>`{3,}|~{3,}).*?(?:^[ ]{0,3}(?P=marks)[`~]*[ \t]*$|\Z))"
    r"|(?P<code>(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))"
    r"|\\\[(?P<display>.+?)\\\]"
    r"|\\\((?P<inline>.+?)\\\)"
    r"|(?P<dollars>\$\$.+?\$\$|(?<![\\$])\$(?=[^\s$])[^$\n]*?(?<=[^\s\\$])\$(?!\d))"
    r"|(?P<dollar>(?<!\\)\$)"
    r"|(?P<image>!(?=\[))"
    r"|(?P<tag><(?=[A-Za-z/!?]))"
    r"|(?P<line_end>(?<=\S)\n)",
    re.DOTALL | re.MULTILINE,
)


def to_markdown(text: str) -> str:
    """An answer as Markdown that loads nothing from other hosts.

    Formulas in TeX's brackets become ones in dollars, single line ends stay, and outside code images and HTML
    are shown as they are written.
    """
    return _PARTS.sub(_part, text)


def _part(match: re.Match[str]) -> str:
    whole = match[0]
    if match["display"]:
        return f"\n\n$$\n{match['display'].strip()}\n$$\n\n"
    if match["inline"]:
        return f"${match['inline'].strip()}$"
    if match["dollar"] or match["image"] or match["tag"]:
        return "\\" + whole
    return "  \n" if match["line_end"] else whole
