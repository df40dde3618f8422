"""Inspect a JSON Schema cheaply, before it is compiled or applied.

The submitter of a task writes the schema. The inspection limits its size, levels, subschemas, expanded references and
patterns. Nothing is fetched: references must lead to another place in the same schema. The time that its patterns take
on a value is unknown before; output_check.py limits that time.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from re import _parser  # type: ignore[attr-defined]  # parses a pattern; compiling one within the limits may take seconds
from typing import Any, NamedTuple
from urllib.parse import unquote, urldefrag, urljoin

from broker.untrusted.json_schema_keywords import (
    CHECKS,
    CHECKS_OF_DRAFT_4,
    DRAFT_3,
    DRAFT_4,
    PLACES,
    REFERENCES,
    UNBOUNDED,
    WITH_LISTS_OF_ITEMS,
    Place,
    problem_with,
)

MAX_SCHEMA_BYTES = 64 * 1024
MAX_LEVELS = 50  # of nested subschemas
MAX_SUBSCHEMAS = 500
MAX_EXPANDED = 10_000  # subschemas, after every reference is replaced by its target
MAX_PATTERN = 1_000  # characters
MAX_PATTERNS = 5_000  # characters of all patterns together
_STEPS_OF_REFERENCE = 10
_SHOWN = 60  # characters of a value
_PATH_SHOWN = 120  # characters


class Inspected(NamedTuple):
    """The result of an inspection. `problem`: why the schema is refused, or None.

    `cost`: the approximate number of steps to check one number. The time to check a value is proportional to the cost
    and to the length of the value. None: it is not, because of patterns, recursion, or keywords that compare items.
    """

    problem: str | None
    cost: int | None = None


class _Refused(Exception):
    """is not a JSON Schema"""

    def __init__(self, path: str, message: str) -> None:
        shown = path if len(path) <= _PATH_SHOWN else path[: _PATH_SHOWN - 1] + "…"
        super().__init__(f"{self.__doc__}: {shown}: {message}")


class _TooLarge(_Refused):
    """is too large"""


def schema_problem(schema: dict[str, Any]) -> str | None:
    """Return the problem of a JSON Schema (2020-12 by default) with its path; None for a valid schema."""
    return inspect_schema(schema).problem


def inspect_schema(schema: dict[str, Any]) -> Inspected:
    """Inspect a schema in at most a few milliseconds."""
    try:
        return _inspected(json.dumps(schema))
    except RecursionError:
        return Inspected("is nested too deeply")


@lru_cache(128)  # thousands of similar tasks have the same schema
def _inspected(text: str) -> Inspected:
    if len(text) > MAX_SCHEMA_BYTES:
        return Inspected(f"is too large: {len(text):,} bytes; the limit is {MAX_SCHEMA_BYTES:,}")
    try:
        return Inspected(None, _Inspection(json.loads(text)).cost)
    except _Refused as refused:
        return Inspected(str(refused))


class _Subschema(NamedTuple):
    path: str
    schema: dict[str, Any]
    base: str  # the base URI of its references
    level: int


class _Inspection:
    """Inspects every subschema once. Raises _Refused.

    The key of a subschema is the id of its dict. `_inner` has the subschemas that a subschema applies, each with
    whether it applies to the same value.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self._subschemas: dict[int, _Subschema] = {}
        self._inner: dict[int, list[tuple[int, bool]]] = {}
        self._documents: dict[str, Any] = {"": schema}  # by URI
        self._anchors: dict[tuple[str, str], Any] = {}  # by URI and name
        self._pattern_characters = 0  # characters
        self._is_bounded = True
        dialect = schema.get("$schema", "")
        if not isinstance(dialect, str):
            raise _Refused("$.$schema", f"{_shown(dialect)} is not text")
        self._dialect = dialect.rstrip("#")
        if self._dialect == DRAFT_3:
            raise _Refused("$.$schema", "draft 3 is not supported: use 2020-12")
        self._checks = CHECKS_OF_DRAFT_4 if self._dialect == DRAFT_4 else CHECKS
        self._inspect(_Subschema("$", schema, "", 1))
        self._follow_references()
        self._check_recursion()
        expanded, steps = self._expanded(id(schema), {}, set())
        if expanded > MAX_EXPANDED:
            raise _TooLarge("$", f"its references expand to more than {MAX_EXPANDED:,} subschemas")
        self.cost = steps if self._is_bounded else None

    def _inspect(self, first: _Subschema) -> None:
        """Inspect a subschema and all subschemas within it."""
        waiting = [first]
        while waiting:
            subschema = waiting.pop()
            path, schema, _, level = subschema
            if id(schema) in self._subschemas:
                continue
            if level > MAX_LEVELS:
                raise _TooLarge(path, f"schemas are nested deeper than {MAX_LEVELS} levels")
            if len(self._subschemas) == MAX_SUBSCHEMAS:
                raise _TooLarge("$", f"it has more than {MAX_SUBSCHEMAS} subschemas")
            base = self._identify(subschema)
            self._subschemas[id(schema)] = subschema._replace(base=base)
            inner = self._inner[id(schema)] = []
            self._is_bounded = self._is_bounded and UNBOUNDED.isdisjoint(schema)
            for keyword, value in schema.items():
                if (check := self._checks.get(keyword)) and (wrong := check(value)):
                    raise _Refused(f"{path}.{keyword}", f"{_shown(value)} {wrong}")
                if keyword == "pattern":
                    self._read_pattern(f"{path}.{keyword}", value)
                elif place := PLACES.get(keyword):
                    for where, within in self._within(f"{path}.{keyword}", keyword, place, value):
                        waiting.append(_Subschema(where, within, base, level + 1))
                        if place.applies:
                            inner.append((id(within), place.same))

    def _identify(self, subschema: _Subschema) -> str:
        """Return the base URI of a subschema, and record its URI and anchors as targets of references."""
        path, schema, base, _ = subschema
        name = schema.get("id" if self._dialect == DRAFT_4 else "$id", "")
        if isinstance(name, str) and name and not name.startswith("#"):
            base = urldefrag(_joined(path, base, name)).url
            self._documents[base] = schema
        for anchor in (name, schema.get("$anchor"), schema.get("$dynamicAnchor")):
            if isinstance(anchor, str):
                self._anchors[base, anchor.removeprefix("#")] = schema
        return base

    def _within(self, path: str, keyword: str, place: Place, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Iterate over the subschemas in the value of a keyword, without `true` and `false`."""
        match value:
            case dict() if place.named:
                found = {f"{path}.{name}": inner for name, inner in value.items()}
                if keyword == "patternProperties":
                    for name in value:
                        self._read_pattern(f"{path}.{name}", name)
            case list() if place.many and (not place.one or self._dialect in WITH_LISTS_OF_ITEMS):
                found = {f"{path}[{number}]": inner for number, inner in enumerate(value)}
                if not value and not place.one:
                    raise _Refused(path, "[] is empty")
            case _ if place.one:
                found = {path: value}
            case _:
                raise _Refused(path, f"{_shown(value)} is not {'an object' if place.named else 'a list'} of schemas")
        for where, inner in found.items():
            if keyword == "dependencies" and isinstance(inner, list):
                if wrong := problem_with(inner):
                    raise _Refused(where, f"{_shown(inner)} {wrong}")
            elif isinstance(inner, dict):
                yield where, inner
            elif not isinstance(inner, bool):
                raise _Refused(where, f"{_shown(inner)} is not a schema: an object, true or false")

    def _read_pattern(self, path: str, pattern: str) -> None:
        self._pattern_characters += len(pattern)
        if len(pattern) > MAX_PATTERN:
            raise _TooLarge(path, f"a pattern of {len(pattern):,} characters; the limit is {MAX_PATTERN:,}")
        if self._pattern_characters > MAX_PATTERNS:
            raise _TooLarge(path, f"all patterns together have more than {MAX_PATTERNS:,} characters")
        try:
            _parser.parse(pattern)
        except (_parser.error, OverflowError, RecursionError, ValueError) as error:
            raise _Refused(path, f"{_shown(pattern)} is not a 'regex': {error}") from error

    # -- references ------------------------------------------------------------------------------------------------

    def _follow_references(self) -> None:
        """Find the target of each reference, and inspect targets that only references reach."""
        followed: set[int] = set()
        while fresh := [it for key, it in self._subschemas.items() if key not in followed]:
            for subschema in fresh:
                followed.add(id(subschema.schema))
                for keyword in subschema.schema.keys() & REFERENCES:
                    path = f"{subschema.path}.{keyword}"
                    target = self._target(path, subschema.base, subschema.schema[keyword])
                    if isinstance(target, dict):
                        self._inspect(_Subschema(path, target, subschema.base, subschema.level))
                        self._inner[id(subschema.schema)].append((id(target), True))

    def _target(self, path: str, base: str, reference: str) -> dict[str, Any] | bool:
        uri, fragment = urldefrag(_joined(path, base, reference))
        if uri not in self._documents:
            raise _Refused(path, f"{_shown(reference)} leads out of the schema; nothing is fetched")
        fragment = unquote(fragment)
        if fragment.startswith("/") or not fragment:
            found = _at(self._documents[uri], fragment.split("/")[1:])
        else:
            found = self._anchors.get((uri, fragment))
        if not isinstance(found, dict | bool):
            raise _Refused(path, f"{_shown(reference)} leads to no schema")
        return found

    def _check_recursion(self) -> None:
        """Check that the schema does not refer to itself for the same value; it may do so for a part of the value."""
        ended: set[int] = set()
        for start in self._subschemas:
            entered, way = {start}, [(start, iter(self._inner[start]))]
            while way:
                key, inner = way[-1]
                within = next((within for within, same in inner if same and within not in ended), None)
                if within is None:
                    way.pop()
                    entered.discard(key)
                    ended.add(key)
                elif within in entered:
                    raise _Refused(self._subschemas[key].path, "refers to itself for the same value, without end")
                else:
                    entered.add(within)
                    way.append((within, iter(self._inner[within])))

    def _expanded(self, key: int, known: dict[int, tuple[int, int]], entered: set[int]) -> tuple[int, int]:
        """Return the numbers of subschemas and steps with expanded references. A recursive reference counts once."""
        if key in entered:
            self._is_bounded = False
            return 1, 1
        if key not in known:
            entered.add(key)
            inner = [self._expanded(within, known, entered) for within, _ in self._inner[key]]
            entered.discard(key)
            own = self._subschemas[key].schema
            steps = 1 + sum(len(value) if isinstance(value, list) else 1 for value in own.values())
            steps += _STEPS_OF_REFERENCE * len(own.keys() & REFERENCES)
            known[key] = 1 + sum(count for count, _ in inner), steps + sum(steps for _, steps in inner)
        return known[key]


def _at(found: Any, steps: list[str]) -> Any:
    """Return the target of a JSON pointer; None without one."""
    for step in steps:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and len(name) < 9:
            found = next(iter(found[int(name) :]), None)
        else:
            return None
    return found


def _joined(path: str, base: str, reference: str) -> str:
    try:
        return urljoin(base, reference)
    except ValueError as error:
        raise _Refused(path, f"{_shown(reference)} is not a URI reference: {error}") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
