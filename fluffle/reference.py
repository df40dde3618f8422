"""Make docs/python.md from the docstrings of the public names: `python -m fluffle.reference > docs/python.md`."""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, Unpack, get_args, get_origin, get_type_hints, is_typeddict

from pydantic import BaseModel

import fluffle
from broker.errors import FluffleError

HEAD = """\
# Python

With the names on this page, a program can submit tasks, and a Python function can work as an LLM. Import all of them
from `fluffle`: `from fluffle import Client, TaskFailed`. [How to use the client](howto-client.md) and
[how to run a worker](howto-workers.md) begin with examples.

This page is made by `python -m fluffle.reference` from the docstrings. Times are seconds, moments are `datetime`s with
an offset from UTC. The [protocol](protocol.md) describes every field of tasks, messages and views.
"""

_SECTIONS = (
    ("fluffle.client.kwargs", "Keyword arguments"),
    ("fluffle.client", "The client"),
    ("workers", "Python functions as LLMs"),
    ("broker.protocol", "Tasks, messages and views"),
    ("broker.errors", "Errors"),
)
"""The section of a name, by the beginning of the module that defines it. The first that fits counts."""

_ORDER = ("The client", "Keyword arguments", "Python functions as LLMs", "Tasks, messages and views", "Errors")


def page() -> str:
    """Return the whole page as Markdown."""
    return "\n".join((HEAD, *_lines())).rstrip() + "\n"


def _lines() -> Iterator[str]:
    sections: dict[str, list[Any]] = {title: [] for title in _ORDER}
    for name in sorted(dir(fluffle), key=str.lower):
        found = getattr(fluffle, name)
        sections[next(title for module, title in _SECTIONS if found.__module__.startswith(module))].append(found)
    for title, members in sections.items():
        yield f"## {title}\n"
        if title == "Errors":
            yield from _table_of_errors(kind for kind in members if issubclass(kind, FluffleError))
        for member in members:
            if title != "Errors" or not issubclass(member, FluffleError):
                yield from _class(member)


def _table_of_errors(errors: Iterator[type[FluffleError]]) -> Iterator[str]:
    yield "| error | is a | meaning |\n|---|---|---|"
    for error in errors:
        [base] = error.__bases__
        yield f"| `{error.__name__}` | `{base.__name__}` | {(error.__doc__ or '').splitlines()[0]} |"
    yield ""


def _class(kind: type[Any]) -> Iterator[str]:
    yield f"### {kind.__name__}\n"
    is_constructed = "__init__" in vars(kind) and not issubclass(kind, BaseModel) and _is_public(kind.__init__)
    if is_constructed:
        yield f"`{kind.__name__}{_signature(kind.__init__)}`\n"
    yield from _text(kind.__doc__)
    if is_constructed and kind.__init__.__doc__:
        yield from _text(kind.__init__.__doc__)
    if issubclass(kind, Enum):
        yield f"{', '.join(f'`{member.value}`' for member in kind)}\n"
    elif is_typeddict(kind) or issubclass(kind, BaseModel):
        yield from _fields(get_type_hints(kind), kind)
    for owner in kind.__mro__:
        if _is_ours(owner):
            for name, member in vars(owner).items():
                if not name.startswith("_") and _is_described(member, owner):
                    yield from _member(name, member)


def _is_ours(found: Any) -> bool:
    return found.__module__.partition(".")[0] in ("broker", "fluffle", "workers")


def _is_public(constructor: Any) -> bool:
    """Whether programs can call the constructor: they have everything that its parameters take."""
    hints = [hint for name, hint in get_type_hints(constructor).items() if name != "return"]
    types = [part for hint in hints for part in (hint, *get_args(hint)) if isinstance(part, type)]
    return all(part.__name__ in dir(fluffle) for part in types if _is_ours(part))


def _is_described(member: object, owner: type[Any]) -> bool:
    """Whether the page describes a member here. A method of SyncClient is described as the method of Client."""
    if isinstance(member, property):
        function: Any = member.fget
    elif inspect.isfunction(member) and not issubclass(owner, BaseModel):
        function = member
    else:
        return False
    doc = function.__doc__
    refers = doc is None or re.fullmatch(r"`\w+\.\w+`\.", doc) is not None
    return not refers and bool(function.__qualname__.startswith(f"{owner.__name__}."))


def _member(name: str, member: Any) -> Iterator[str]:
    if isinstance(member, property):
        yield f"**`{name}`**`: {_type(get_type_hints(member.fget).get('return'))}`\n"
    else:
        prefix = "await " if inspect.iscoroutinefunction(member) else ""
        yield f"**`{prefix}{name}`**`{_signature(member)}`\n"
    yield from _text(member.__doc__)


def _text(doc: str | None) -> Iterator[str]:
    """The lines of a docstring, with what follows `Args:` or `Attributes:` as a list."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(doc or "")):
        if found := re.match(r"(?:Args|Attributes):\n", paragraph):
            entries = re.split(r"\n {4}(?=\w+: )", "\n" + paragraph[found.end() :])
            yield "\n".join(re.sub(r"^(\w+): ", r"- `\1`: ", " ".join(entry.split())) for entry in entries[1:])
        else:
            yield paragraph
        yield ""


def _fields(hints: Mapping[str, Any], kind: type[Any]) -> Iterator[str]:
    model_fields = getattr(kind, "model_fields", hints)
    yield "| field | type |\n|---|---|"
    for name in model_fields:
        shown = _type(hints[name]).replace("|", r"\|")
        yield f"| `{name}` | `{shown}` |"
    yield ""


def _signature(function: Any) -> str:
    hints = get_type_hints(function)
    signature = inspect.signature(function)
    parts = []
    last_kind = None
    for parameter in list(signature.parameters.values())[1:]:  # without self
        if last_kind is parameter.POSITIONAL_ONLY and parameter.kind is not parameter.POSITIONAL_ONLY:
            parts.append("/")
        is_first_keyword = last_kind not in (parameter.VAR_POSITIONAL, parameter.KEYWORD_ONLY)
        if parameter.kind is parameter.KEYWORD_ONLY and is_first_keyword:
            parts.append("*")
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else "*" * (parameter.kind is parameter.VAR_POSITIONAL)
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        parts.append(f"{stars}{parameter.name}: {_type(hints.get(parameter.name, Any))}{default}")
        last_kind = parameter.kind
    if last_kind is inspect.Parameter.POSITIONAL_ONLY:
        parts.append("/")
    returned = hints.get("return")
    return f"({', '.join(parts)})" + ("" if returned in (None, NoneType) else f" -> {_type(returned)}")


def _type(hint: Any) -> str:
    """A type as it stands in source code, without modules and without pydantic's conditions."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (None, NoneType):
        return "None"
    if hint is ...:
        return "..."
    if isinstance(hint, list):
        return f"[{', '.join(map(_type, hint))}]"
    if origin in (Union, UnionType):
        return " | ".join(map(_type, arguments))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is Unpack:
        return _type(arguments[0])
    name = getattr(origin or hint, "__name__", str(hint))
    return f"{name}[{', '.join(map(_type, arguments))}]" if arguments else name


if __name__ == "__main__":
    sys.stdout.write(page())
