"""Converts terminal output to plain text, without colours, titles, cursor moves and progress bars.

The sequences are those of ECMA-48 (control sequences, and strings such as the title of the window) and ISO 2022.
"""

import re

_STRING = r"[^\x07\x1b\x9c\n]{0,4096}"
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"  # control sequences: colours, cursor
    rf"|(?:\x1b[\]PX^_]|\x9d){_STRING}(?:\x07|\x1b\\|\x9c)"  # strings: titles, hyperlinks
    r"|\x1b[ -/]{1,8}[0-~]"  # character sets
    r"|\x1b[0-OQ-WYZ\\`-~]"  # the rest: keypad, saved cursor, …
    r"|\x1b[\[\]PX^_]?"  # incomplete
)
_BEGUN = re.compile(
    rf"(?:(?:\x1b\[|\x9b)[0-?]{{0,64}}[ -/]{{0,8}}|(?:\x1b[\]PX^_]|\x9d){_STRING}\x1b?|\x1b[ -/]{{0,8}})\Z"
)
_CONTROL = re.compile(r"[\x00-\x07\x0e-\x1f\x7f\x9b\x9d]")  # except backspaces, line ends and tabs
_RETURNS = re.compile(r"\r+\n")
_SPECIAL = re.compile(r"[\x00-\x08\x0d-\x1f\x7f\x9b\x9d]")
_BOM = "\ufeff"


def terminal_text(text: str) -> str:
    """Return the text as a terminal shows it in the end. Without control characters, only a BOM is removed.

    A backspace removes the character before it. A carriage return replaces the text of its line. Line ends become
    newlines.
    """
    if not _SPECIAL.search(text):
        return text.removeprefix(_BOM)
    text = _RETURNS.sub("\n", _SEQUENCE.sub("", text)).removeprefix(_BOM)
    return _CONTROL.sub("", "\n".join(map(_last_state, text.split("\n"))))


class TerminalFilter:
    """Converts terminal output piece by piece. The result does not depend on where the pieces begin.

    Text that was returned stays: a carriage return begins a new line, and a backspace removes nothing.
    """

    def __init__(self) -> None:
        self._held = ""  # the beginning of a sequence
        self._returned = False  # after a carriage return, which a newline makes part of a line end
        self._begins = True

    def feed(self, piece: str) -> str:
        """Take the next piece, and return the plain text that it completes."""
        text = self._held + piece
        begun = _BEGUN.search(text)
        end = len(text) if begun is None else begun.start()
        self._held = text[end:]
        return self._plain(text[:end])

    def close(self) -> str:
        """End the text, and return the rest."""
        rest, self._held = self._held, ""
        return self._plain(rest)

    def _plain(self, text: str) -> str:
        if self._returned or _SPECIAL.search(text):
            text = _CONTROL.sub("", _SEQUENCE.sub("", text)).replace("\b", "")
            text = "\r" * self._returned + text
            lines = text.rstrip("\r")
            self._returned = lines != text
            text = re.sub(r"\r+\n?", "\n", lines)
        if self._begins and text:
            self._begins = False
            text = text.removeprefix(_BOM)
        return text


def _last_state(line: str) -> str:
    """Return the final text of a line."""
    shown = [state for state in line.split("\r") if state]
    line = shown[-1] if shown else ""
    if "\b" not in line:
        return line
    characters: list[str] = []
    for character in line:
        if character != "\b":
            characters.append(character)
        elif characters:
            characters.pop()
    return "".join(characters)
