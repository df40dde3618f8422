"""The reasoning that some models write between tags before their answer, told from the answer.

    <think>The user wants a number.</think>

    42

Servers that know a model send its reasoning apart from the answer. Others send all of it as one text. Only what stands
at the beginning is reasoning: a tag in the middle of an answer belongs to the answer.
"""

import re

_TAGS = ("think", "thinking")
_OPENING = re.compile(rf"\s*<({'|'.join(_TAGS)})>", re.IGNORECASE)
_OPENING_ANYWHERE = re.compile(rf"<(?:{'|'.join(_TAGS)})>", re.IGNORECASE)
_CLOSING_LINE = re.compile(rf"^[ \t]*</(?:{'|'.join(_TAGS)})>[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)


def without_reasoning(text: str) -> str:
    """The answer in a model's text: all of it, unless reasoning comes first.

    Some chat templates write the opening tag themselves, so that the text has the closing tag alone. That one counts if
    it is a line to itself, outside a code fence. An opening tag that is never closed is part of the answer.
    """
    reader = ReasoningFilter()
    answer = reader.feed(text) + reader.close()
    if answer != text:
        return answer
    closing = _CLOSING_LINE.search(text)
    if closing is None:
        return text
    before = text[: closing.start()]
    if _OPENING_ANYWHERE.search(before) or len(_FENCE.findall(before)) % 2:
        return text
    return text[closing.end() :].lstrip()


class ReasoningFilter:
    """A text that comes in pieces, without the tagged reasoning before it. Where it is cut does not matter."""

    def __init__(self) -> None:
        self._undecided = ""  # may become an opening tag
        self._reasoning: list[str] = []  # since the last opening tag, this included
        self._closing: re.Pattern[str] | None = None
        self._tail = ""  # of the reasoning: may be the first half of the closing tag
        self._removed = False
        self._passes = False

    def feed(self, piece: str) -> str:
        """The next piece; returns what of the text so far is known to be answer and was not returned before."""
        while piece and not self._passes:
            piece = self._reason(piece) if self._closing is not None else self._decide(piece)
        return piece

    def close(self) -> str:
        """The text is over: returns what was held back and turns out to be answer."""
        held = "".join(self._reasoning) if self._closing is not None else self._undecided
        self._passes, self._closing, self._undecided = True, None, ""
        return held.lstrip() if self._removed else held

    def _decide(self, piece: str) -> str:
        """Whether the text begins with reasoning. Returns what is left to look at."""
        text = self._undecided + piece
        if opening := _OPENING.match(text):
            self._closing = re.compile(f"</{opening[1]}>", re.IGNORECASE)
            self._reasoning, self._tail, self._undecided = [opening[0]], "", ""
            return text[opening.end() :]
        if _may_open(text):
            self._undecided = text
            return ""
        self._passes, self._undecided = True, ""
        return text.lstrip() if self._removed else text

    def _reason(self, piece: str) -> str:
        """Look for the end of the reasoning. Returns what comes after it."""
        assert self._closing is not None
        window = self._tail + piece
        self._reasoning.append(piece)
        if (closing := self._closing.search(window)) is None:
            self._tail = window[-len("</thinking>") :]
            return ""
        self._closing, self._removed = None, True
        return window[closing.end() :]


def _may_open(text: str) -> bool:
    """Whether more text can make an opening tag of this."""
    begun = text.lstrip().lower()
    return any(f"<{tag}>".startswith(begun) for tag in _TAGS)
