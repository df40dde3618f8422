"""Size limits of answers, events and lists: large fields are left out, and `left_out` names them."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import from_json, to_json

from broker.protocol.primitives import MAX_PAGE_BYTES
from coordinator.storage.rows import Row

BEGINNING = 500  # characters of a long text that are shown
MAX_FIELD_BYTES = 2_000  # of a field in a list, such as metadata
LATEST = 10  # attempts and changes of a task in a list

_TEXTS = ("description", "content")  # cut instead of left out
_OF_TASKS = {"id", "status", "priority", "llm", "submitted_at", "left_out"}
_OF_OTHERS = {"name", "state", "sender", "receiver", "conversation_id", "sent_at"}
_NEEDED = _OF_TASKS | _OF_OTHERS  # small, and needed to read the rest

View = dict[str, Any]


def beginning(text: str) -> str:
    """Return the beginning of a text that is too long."""
    return text[:BEGINNING] + "…"


def fitted(view: View, most: int) -> View:
    """Return a view whose JSON has at most about `most` bytes: without its largest fields, and with texts cut.

    `left_out` then names these fields, with their sizes in bytes. A result that fits by itself is left out last.
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
    """Return the body of an answer or event, shortened to at most `most` bytes; None if that is impossible."""
    shown = from_json(body)
    about = shown.get("data") if "specversion" in shown else shown
    if not isinstance(about, dict):
        return None
    smaller = fitted(about, most - (len(body) - len(to_json(about))))
    found = to_json({**shown, "data": smaller} if "specversion" in shown else smaller)
    return found if len(found) <= most else None


class Page:
    """A page of views: as many as fit into about `most` bytes of JSON, at least one."""

    def __init__(self, key: str, most: int = MAX_PAGE_BYTES, *, whole: bool = False) -> None:
        """`key` is the field that holds the views. A view with more than `most` bytes is cut, unless `whole`."""
        self._key = key
        self._most = most
        self._whole = whole
        self._size = 0
        self._views: list[bytes] = []

    def take(self, view: View) -> bool:
        """Add a view. Returns False when there is no room for it."""
        encoded = to_json(view)
        if len(encoded) > self._most and not self._whole:
            encoded = to_json(fitted(view, self._most))
        if self._views and self._size + len(encoded) > self._most:
            return False
        self._views.append(encoded)
        self._size += len(encoded) + 1
        return True

    def encoded(self, following: int | str | None) -> bytes:
        """Return the answer as JSON; `following` is where the next page begins."""
        return b'{"%b":[%b],"next":%b}' % (self._key.encode(), b",".join(self._views), to_json(following))


def without_bulk(row: Row) -> tuple[Row, dict[str, int]]:
    """Return a task's row without the large fields of its submission, and the sizes of these in bytes."""
    if len(row["spec"]) <= MAX_FIELD_BYTES:
        return row, {}
    spec = from_json(row["spec"])
    sizes = {name: len(to_json(spec[name])) for name in ("metadata", "output_schema") if name in spec}
    large = {name: size for name, size in sizes.items() if size > MAX_FIELD_BYTES}
    kept = {name: value for name, value in spec.items() if name not in large}
    return {**row, "spec": to_json(kept).decode()}, large


def in_a_list(view: View, left_out: Mapping[str, int]) -> View:
    """Return the view of a task for a list: with the latest attempts and changes, and without long texts."""
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
