"""Separate the reasoning that some models write between tags from the answer that follows.

    <think>The user wants a number.</think>

    42

Servers that know a model send its reasoning separately. Others send reasoning and answer as one text. Only text at the
beginning is reasoning: a tag in the middle of an answer belongs to the answer.
"""

import re

_TAGS = ("think", "thinking")
_OPENING = re.compile(rf"\s*<({'|'.join(_TAGS)})>", re.IGNORECASE)
_OPENING_ANYWHERE = re.compile(rf"<(?:{'|'.join(_TAGS)})>", re.IGNORECASE)
_CLOSING_LINE = re.compile(rf"^[ \t]*</(?:{'|'.join(_TAGS)})>[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)


def without_reasoning(text: str) -> str:
    """Return the answer in the text of a model: all of it, unless reasoning comes first.

    Some chat templates write the opening tag themselves, so the text has only the closing tag. It counts if it is a
    separate line outside a code fence. An opening tag without a closing tag is part of the answer.
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
    """Removes tagged reasoning from a text in pieces. The result does not depend on where the pieces begin."""

    def __init__(self) -> None:
        self._undecided = ""  # may be the beginning of an opening tag
        self._reasoning: list[str] = []  # from the last opening tag on, with the tag
        self._closing: re.Pattern[str] | None = None
        self._tail = ""  # of the reasoning: may be the beginning of the closing tag
        self._removed = False
        self._passes = False

    def feed(self, piece: str) -> str:
        """Take the next piece, and return the new text that is known to be part of the answer."""
        while piece and not self._passes:
            piece = self._reason(piece) if self._closing is not None else self._decide(piece)
        return piece

    def close(self) -> str:
        """End the text, and return the rest of the answer."""
        held = "".join(self._reasoning) if self._closing is not None else self._undecided
        self._passes, self._closing, self._undecided = True, None, ""
        return held.lstrip() if self._removed else held

    def _decide(self, piece: str) -> str:
        """Decide whether the text begins with reasoning. Returns the text that is not processed yet."""
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
        """Look for the end of the reasoning. Returns the text after it."""
        assert self._closing is not None
        window = self._tail + piece
        self._reasoning.append(piece)
        if (closing := self._closing.search(window)) is None:
            self._tail = window[-len("</thinking>") :]
            return ""
        self._closing, self._removed = None, True
        return window[closing.end() :]


def _may_open(text: str) -> bool:
    """Return whether this can be the beginning of an opening tag."""
    begun = text.lstrip().lower()
    return any(f"<{tag}>".startswith(begun) for tag in _TAGS)
