"""Convert text from outside to text that UTF-8 can encode.

Providers stream JSON whose escapes may name half of a character: a surrogate. A pair may be cut between two pieces of a
stream, and a surrogate may be alone. Neither a message nor a database can hold a surrogate.
"""

LOST = "\ufffd"
"""The replacement of a surrogate that is alone."""


def portable(text: str) -> str:
    """Return the text with surrogate pairs joined, and U+FFFD for each surrogate that is alone."""
    if is_portable(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def is_portable(text: str) -> bool:
    """Whether UTF-8 can encode the text."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def ends_within_a_character(text: str) -> bool:
    """Whether the text ends with the first half of a surrogate pair. The other half may follow."""
    return "\ud800" <= text[-1:] <= "\udbff"


def printed(value: object) -> str:
    """Return `str(value)` as portable text; the name of its type when `str` raises. Never raises."""
    try:
        return portable(str(value))
    except Exception:
        return type(value).__name__


def on_one_line(text: str, length: int = 300) -> str:
    """Return the beginning of a text on one line, for logs."""
    line = " ".join(text[: 2 * length].split())
    line = "".join(letter if letter.isprintable() else LOST for letter in line)
    return line if len(line) <= length and len(text) <= 2 * length else f"{line[: length - 1]}…"
