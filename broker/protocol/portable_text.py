"""Text that UTF-8 can carry, made of text from outside.

Providers stream JSON whose escapes may name half of a character: a surrogate. A pair may be cut between two pieces of a
stream, and one may stand alone. Nothing that goes over the wire or into a database can hold it.
"""

LOST = "\ufffd"
"""What stands for half of a character whose other half is missing."""


def portable(text: str) -> str:
    """The text with surrogate pairs joined, and U+FFFD for each surrogate that stands alone."""
    if is_portable(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def is_portable(text: str) -> bool:
    """Whether UTF-8 can carry the text."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def ends_within_a_character(text: str) -> bool:
    """Whether the text ends with the first half of a surrogate pair: the other half may be still to come."""
    return "\ud800" <= text[-1:] <= "\udbff"


def printed(value: object) -> str:
    """`str(value)` as portable text. Of a value that cannot be printed, the name of its type; never raises."""
    try:
        return portable(str(value))
    except Exception:
        return type(value).__name__


def on_one_line(text: str, length: int = 300) -> str:
    """The beginning of a text, its words on one line; for logs."""
    line = " ".join(text[: 2 * length].split())
    line = "".join(letter if letter.isprintable() else LOST for letter in line)
    return line if len(line) <= length and len(text) <= 2 * length else f"{line[: length - 1]}…"
