"""The JSON in a text: an LLM that was asked for JSON alone often writes more."""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from workers.models.provider.reasoning import without_reasoning

_OPENING_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*[\w+.-]*\s*")
_AFTER_WORDS = re.compile(r"[^{}\[\]]*\n[ \t]*([{\[].*)", re.DOTALL)


def json_values(text: str) -> Iterator[Any]:
    """Yield the JSON values that the text may mean, the likeliest first.

    The candidates are the text itself; the text without the reasoning before it; the content of its only code fence;
    and an object or a list at its end, after a few words.
    """
    for candidate in _candidates(text.removeprefix("\ufeff")):
        try:
            yield json.loads(candidate, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            continue


def _candidates(text: str) -> Iterator[str]:
    yield text
    answer = without_reasoning(text)
    if answer != text:
        yield answer
    fences = list(_fenced(answer))
    if len(fences) == 1:
        yield fences[0]
    elif not fences and (after_words := _AFTER_WORDS.fullmatch(answer)):
        yield after_words[1]


def _fenced(text: str) -> Iterator[str]:
    """Yield the content of each code fence. The closing fence may be at the end of the last line."""
    fence, lines = "", list[str]()
    for line in text.split("\n"):
        if not fence:
            if opening := _OPENING_FENCE.fullmatch(line):
                fence, lines = opening[1], []
        elif line.rstrip().endswith(fence):
            yield "\n".join([*lines, line.rstrip().removesuffix(fence)])
            fence = ""
        else:
            lines.append(line)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")
