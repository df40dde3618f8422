"""Messages that strict decoding refuses for something that decides nothing.

Many languages write null for what is empty and 7.0 for 7; workers report more than anybody asked for, and figures that
make no sense. None of it may cost a task or an answer. Only a message that was refused is looked at here, and only at
the places that were refused: right ones pay nothing.
"""

from collections.abc import Hashable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from broker.errors import Problem


class Repaired(NamedTuple):
    """A message as it could be meant, and what was left out of it."""

    body: bytes
    ignored: list[Problem]


class _Step(NamedTuple):
    """A place in a message: an object or list, and the name or number of something in it.

    `model` is what the object is a message of, where it is one.
    """

    container: Any
    key: Any
    model: type[BaseModel] | None


def repaired(kind: type[BaseModel], body: bytes, error: ValidationError) -> Repaired | None:
    """The body without what need not have been refused; None where there is no such thing. It may still be wrong.

    A field that may be left out may be null; an integer may be written as 7.0. Where `kind` says so (primitives.Wire),
    unknown fields are ignored, and so are dispensable ones that make no sense.
    """
    try:
        data = from_json(body)
    except ValueError:
        return None
    ignored: list[Problem] = []
    changed = False
    for item in error.errors(include_url=False):
        way = list(_way(data, kind, item["loc"]))
        if not way:
            continue
        if _understood(way[-1], item):
            changed = True
        elif length := _superfluous(way, item):
            step = way[length - 1]
            del step.container[step.key]
            ignored.append(Problem(".".join(str(step.key) for step in way[:length]), item["msg"]))
            changed = True
    return Repaired(to_json(data, inf_nan_mode="constants"), ignored) if changed else None


def _superfluous(way: list[_Step], item: ErrorDetails) -> int:
    """How far the way leads to what has to go for the error to go, and decides nothing; 0 where nothing may go."""
    if item["type"] == "extra_forbidden":
        return len(way) if getattr(way[-1].model, "ignores_unknown", False) else 0
    places = range(len(way), 0, -1)  # from within
    return next((at for at in places if way[at - 1].key in getattr(way[at - 1].model, "dispensable", ())), 0)


def _understood(step: _Step, item: ErrorDetails) -> bool:
    """Whether it says something right in other words, and now says it in the right ones."""
    value = item["input"]
    if value is None and step.model is not None and step.key in step.model.model_fields:
        del step.container[step.key]
        return True
    if item["type"] == "int_type" and isinstance(value, float) and value.is_integer():
        step.container[step.key] = int(value)
        return True
    return False


def _way(data: Any, kind: type[BaseModel], loc: tuple[int | str, ...]) -> Iterator[_Step]:
    """The steps to the place of an error, as far as they are there."""
    place, model = data, kind
    found: type[BaseModel] | None = model
    for part in loc:
        if isinstance(place, dict) and part in place:
            yield _Step(place, part, found)
            field = found.model_fields.get(str(part)) if found else None
            found = None if field is None else _model_in(cast(Hashable, field.annotation))
        elif isinstance(place, list) and isinstance(part, int) and part < len(place):
            yield _Step(place, part, None)
        else:
            return
        place = place[part]


@lru_cache
def _model_in(annotation: Hashable) -> type[BaseModel] | None:
    """The model that a field, or each item of it, is one of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)
