"""What answers, events and lists may hold: what is too large is left out, and the answer tells that."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import from_json, to_json

from broker.protocol.primitives import MAX_PAGE_BYTES
from coordinator.storage.rows import Row

BEGINNING = 500  # characters of a long text that are shown
MOST_SHOWN = 2_000  # bytes of a field of a list, such as metadata
LATEST = 10  # attempts and changes of a task in a list

_TEXTS = ("description", "content")  # are cut, and not left out
_OF_TASKS = {"id", "status", "priority", "llm", "submitted_at", "left_out"}
_OF_OTHERS = {"name", "state", "sender", "receiver", "conversation_id", "sent_at"}
_NEEDED = _OF_TASKS | _OF_OTHERS  # each small, and needed to read the rest

View = dict[str, Any]


def beginning(text: str) -> str:
    """The beginning of a text that is too long."""
    return text[:BEGINNING] + "…"


def fitted(view: View, most: int) -> View:
    """A view whose JSON has about `most` bytes at most: the largest fields are left out, and texts are cut.

    `left_out` then tells which, and how many bytes each has. A result goes last, if it fits by itself.
    """
    sizes = {name: len(to_json(value)) for name, value in view.items() if name not in _NEEDED}
    too_much = sum(sizes.values()) + BEGINNING - most
    if too_much <= 0:
        return view
    kept, left_out = dict(view), dict(view.get("left_out", {}))
    for name in sorted(sizes, key=lambda name: (name == "result" and sizes[name] < most, -sizes[name])):
        if too_much <= 0:
            break
        if name not in _TEXTS:
            del kept[name]
        elif sizes[name] > BEGINNING:
            kept[name] = beginning(view[name])
        else:
            continue
        left_out[name] = sizes[name]
        too_much -= sizes[name]
    kept["left_out"] = left_out
    return kept


def fitted_body(body: bytes, most: int) -> bytes | None:
    """The body of an answer or event that is too large, so that it has about `most` bytes; None when it cannot."""
    shown = from_json(body)
    about = shown.get("data") if "specversion" in shown else shown
    if not isinstance(about, dict):
        return None
    smaller = fitted(about, most - (len(body) - len(to_json(about))))
    found = to_json({**shown, "data": smaller} if "specversion" in shown else smaller)
    return found if len(found) <= most else None


class Page:
    """Views that are told together: so many that their JSON is not much larger than a bound, and one at least."""

    def __init__(self, key: str, most: int = MAX_PAGE_BYTES, *, whole: bool = False) -> None:
        """`key` is the name of the field that holds them. A view with more than `most` bytes is cut if not `whole`."""
        self._key = key
        self._most = most
        self._whole = whole
        self._size = 0
        self._views: list[bytes] = []

    def take(self, view: View) -> bool:
        """Take in the next view; False when there is no room for it."""
        encoded = to_json(view)
        if len(encoded) > self._most and not self._whole:
            encoded = to_json(fitted(view, self._most))
        if self._views and self._size + len(encoded) > self._most:
            return False
        self._views.append(encoded)
        self._size += len(encoded) + 1
        return True

    def told(self, following: int | str | None) -> bytes:
        """The answer, with what the following page begins with."""
        return b'{"%b":[%b],"next":%b}' % (self._key.encode(), b",".join(self._views), to_json(following))


def without_bulk(row: Row) -> tuple[Row, dict[str, int]]:
    """The row of a task whose submission holds no large fields, and how many bytes those have that it held."""
    if len(row["spec"]) <= MOST_SHOWN:
        return row, {}
    spec = from_json(row["spec"])
    sizes = {name: len(to_json(spec[name])) for name in ("metadata", "output_schema") if name in spec}
    large = {name: size for name, size in sizes.items() if size > MOST_SHOWN}
    kept = {name: value for name, value in spec.items() if name not in large}
    return {**row, "spec": to_json(kept).decode()}, large


def in_a_list(view: View, left_out: Mapping[str, int]) -> View:
    """The view of a task as lists show it: the latest attempts and changes, and no long text."""
    shown = {name: value for name, value in view.items() if name not in left_out or name in _TEXTS}
    for name in ("attempts", "history"):
        shown[name] = [dict(_without_texts(item)) for item in view[name][-LATEST:]]
    if (error := shown.get("error")) is not None:
        shown["error"] = {**error, "message": _cut(error["message"])}
    if left_out:
        shown["left_out"] = dict(left_out)
    return shown


def _without_texts(item: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in item.items():
        if name == "error":
            yield name, {**value, "message": ""}
        else:
            yield name, _cut(value) if isinstance(value, str) else value


def _cut(text: str) -> str:
    return beginning(text) if len(text) > BEGINNING else text
