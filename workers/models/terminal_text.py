"""What a command writes for a terminal, as plain text: without colours, titles, cursor moves and progress bars.

The sequences are those of ECMA-48 (control sequences, and strings such as the window's title) and of ISO 2022.
"""

import re

_STRING = r"[^\x07\x1b\x9c\n]{0,4096}"
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"  # control sequences: colours, cursor
    rf"|(?:\x1b[\]PX^_]|\x9d){_STRING}(?:\x07|\x1b\\|\x9c)"  # strings: titles, hyperlinks
    r"|\x1b[ -/]{1,8}[0-~]"  # character sets
    r"|\x1b[0-OQ-WYZ\\`-~]"  # the rest: keypad, saved cursor, …
    r"|\x1b[\[\]PX^_]?"  # begun, and never ended
)
_BEGUN = re.compile(
    rf"(?:(?:\x1b\[|\x9b)[0-?]{{0,64}}[ -/]{{0,8}}|(?:\x1b[\]PX^_]|\x9d){_STRING}\x1b?|\x1b[ -/]{{0,8}})\Z"
)
_CONTROL = re.compile(r"[\x00-\x07\x0e-\x1f\x7f\x9b\x9d]")  # but for backspaces, line ends and tabs
_RETURNS = re.compile(r"\r+\n")
_SPECIAL = re.compile(r"[\x00-\x08\x0d-\x1f\x7f\x9b\x9d]")
_BOM = "\ufeff"


def terminal_text(text: str) -> str:
    """The text that is left on a terminal. A text without control characters stays as it is, but for a BOM before it.

    A backspace removes the character before it. A carriage return begins the line again: what the line held is
    replaced. Line ends are newlines.
    """
    if not _SPECIAL.search(text):
        return text.removeprefix(_BOM)
    text = _RETURNS.sub("\n", _SEQUENCE.sub("", text)).removeprefix(_BOM)
    return _CONTROL.sub("", "\n".join(map(_last_state, text.split("\n"))))


class TerminalFilter:
    """The same for text that is shown while it comes. How it is cut into pieces does not matter.

    What has been shown stays: a line that begins again is another line, and a backspace removes nothing.
    """

    def __init__(self) -> None:
        self._held = ""  # a sequence, as far as it has come
        self._returned = False  # after a carriage return, which a newline makes part of a line end
        self._begins = True

    def feed(self, piece: str) -> str:
        """The next piece; returns the plain text that is complete with it."""
        text = self._held + piece
        begun = _BEGUN.search(text)
        end = len(text) if begun is None else begun.start()
        self._held = text[end:]
        return self._plain(text[:end])

    def close(self) -> str:
        """There is nothing more; returns the rest."""
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
    """What a line shows in the end."""
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
