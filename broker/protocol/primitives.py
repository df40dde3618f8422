"""What every message is made of: strict models, names and texts with their limits, and how bytes become one of them."""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, cast, get_args

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from broker.errors import DecodeError, Problem
from broker.protocol.portable_text import is_portable

PROTOCOL_VERSION = "1"
LOCAL = "local"  # a label of an LLM that sends no data to other machines
LOCAL_ONLY = "local-only"  # a label of a task that only such LLMs may do
MAX_BODY_BYTES = 1024 * 1024
MAX_ASSIGNMENT_BYTES = 16 * 1024 * 1024  # a task with the results that it builds on
MAX_GROUP_RESULT_BYTES = 8 * 1024 * 1024  # what the results of its parts may have together
MAX_ANSWER_BYTES = 12 * 1024 * 1024  # of the coordinator; RabbitMQ 4 takes messages of 16 MiB
MAX_PAGE_BYTES = 2 * 1024 * 1024  # of a list, from which on it is told page by page
JSON_TYPE = "application/json"
EVENT_TYPE = "application/cloudevents+json"

NOT_DATA = "is a section of AMQP 1.0 that holds a value: send the JSON as one data section, in bytes"
_AMQP_1_SECTION = b"\0S"  # how what is not a data section begins, when RabbitMQ passes it on to AMQP 0-9-1

MAX_TEXT = 20_000  # characters of a question or an answer
MAX_LEVELS = 100  # of nesting in what people and LLMs send; parsers read 200, and it is passed on with a few around it

_IN_WORDS: dict[str, str] = {}  # what is wrong with text that does not match a pattern


def matching(pattern: str, otherwise: str) -> Any:
    """A field of text that has to match; `otherwise` is what people are told."""
    _IN_WORDS[pattern] = otherwise
    return Field(pattern=pattern)


NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
TAG_PATTERN = r"^[a-z0-9][a-z0-9._:+/-]{0,62}$"
_ID_PATTERN = r"^[A-Za-z0-9._:-]{1,64}$"
_TEXT_PATTERN = r"^[^\x00]*$"
_LINE_PATTERN = r"^[^\x00-\x1f]{1,100}$"

Name = Annotated[str, matching(NAME_PATTERN, "is no name: a-z, 0-9 and -, at most 63 of them")]
TaskId = Annotated[str, matching(_ID_PATTERN, "is no id: 1 to 64 of A-Z, a-z, 0-9 and ._:-")]
Tag = Annotated[str, matching(TAG_PATTERN, "is no tag: a-z, 0-9 and ._:+/-, at most 63 of them")]
Text = Annotated[str, Field(min_length=1), matching(_TEXT_PATTERN, "has a NUL in it")]
Storable = Annotated[str, matching(_TEXT_PATTERN, "has a NUL in it")]  # also empty
NoteName = Annotated[str, matching(_LINE_PATTERN, "is not 1 to 100 characters on one line")]


NO_UTF8 = "cannot be UTF-8: it has half of a surrogate pair, or bytes of another encoding"


def _must_be_portable(value: JsonValue) -> JsonValue:
    """JSON that every part of the system can pass on.

    Raises ValueError for too deep nesting, infinite numbers and text that UTF-8 cannot carry.
    """
    level = [value]
    for _ in range(MAX_LEVELS + 1):
        inner: list[JsonValue] = []
        for item in level:
            if isinstance(item, str):
                if not is_portable(item):
                    raise ValueError(f"{NO_UTF8}: {item[:100]!a}")
            elif isinstance(item, dict):
                inner += item
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, float) and math.isinf(item):
                raise ValueError("has a number that is out of range")
        if not inner:
            return value
        level = inner
    raise ValueError(f"nested deeper than {MAX_LEVELS} levels")


def in_the_calendar(moment: datetime) -> datetime:
    """The moment in UTC. Raises ValueError for one that is outside of the years 1 to 9999 there."""
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is out of range") from error


Moment = Annotated[AwareDatetime, AfterValidator(in_the_calendar)]
Json = Annotated[JsonValue, AfterValidator(_must_be_portable)]
JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_must_be_portable)]
Level = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Tokens = Annotated[int, Field(ge=0, le=10**12)]


def shortened(text: str, most: int) -> str:
    """The text, or where it has more than `most` characters its beginning and a `…`."""
    return text if len(text) <= most else text[: most - 1] + "…"


class WireModel(BaseModel):
    """A message body: immutable, no unknown fields, no silent conversions.

    `decode` leaves unknown fields out where a kind of message ignores them, and `dispensable` ones that make no sense:
    they decide nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    ignores_unknown: ClassVar[bool] = False
    dispensable: ClassVar[frozenset[str]] = frozenset()

    def encode(self) -> bytes:
        """The body as JSON, without the fields that hold nothing."""
        return self.model_dump_json(exclude_none=True).encode()


M = TypeVar("M", bound=BaseModel)


OnIgnored = Callable[[Sequence[Problem]], object]
"""Is called with what was left out of a message that counts all the same."""


def decode(kind: type[M], body: bytes, *, limit: int = MAX_BODY_BYTES, on_ignored: OnIgnored | None = None) -> M:
    """`body` as a message of that kind. Raises DecodeError, with every problem by its path, and nothing else.

    A field that may be left out may be null, and an integer may be written as 7.0.
    """
    if len(body) > limit:
        raise DecodeError([Problem("", f"the body has {len(body):,} bytes; the limit is {limit:,}")])
    try:
        if b"NaN" in body or b"Infinity" in body:  # JSON has neither; the model's parser lets them through
            from_json(body, allow_inf_nan=False)
        return kind.model_validate_json(body)
    except ValidationError as error:
        return _repaired(kind, body, error, on_ignored)
    except ValueError as error:
        raise DecodeError([Problem("", f"Invalid JSON: {error}")]) from error


def _repaired(kind: type[M], body: bytes, error: ValidationError, on_ignored: OnIgnored | None) -> M:
    if body.startswith(_AMQP_1_SECTION):
        raise DecodeError([Problem("", NOT_DATA)]) from error
    ignored: list[Problem] = []
    message: M | None = None
    while message is None:
        if (better := _normalized(kind, body, error)) is None:
            raise DecodeError(problems(error)) from error
        body = better.body
        ignored += better.ignored
        try:
            message = kind.model_validate_json(body)
        except ValidationError as left:
            error = left
    if ignored and on_ignored is not None:
        on_ignored(ignored)
    return message


class _Repaired(NamedTuple):
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


def _normalized(kind: type[BaseModel], body: bytes, error: ValidationError) -> _Repaired | None:
    """The body without what need not have been refused; None where there is no such thing. It may still be wrong.

    A field that may be left out may be null; an integer may be written as 7.0. Where `kind` says so,
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
    return _Repaired(to_json(data, inf_nan_mode="constants"), ignored) if changed else None


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


def problems(error: ValidationError) -> list[Problem]:
    """Pydantic's errors as ours: dotted paths and no echo of the input."""
    return [
        Problem(".".join(str(part) for part in item["loc"] if part != "[key]"), _sentence(item))
        for item in error.errors(include_url=False, include_input=False)
    ]


def _sentence(item: ErrorDetails) -> str:
    match item["type"]:
        case "string_pattern_mismatch":
            return _IN_WORDS.get(item["ctx"]["pattern"], item["msg"])
        case "string_unicode":
            return NO_UTF8
        case "extra_forbidden":
            return "unknown field"
        case "string_too_short" if item["ctx"]["min_length"] == 1:
            return "is empty"
        case "too_short" | "too_long":
            return item["msg"].replace(" after validation", "")
        case _:
            return item["msg"].removeprefix("Value error, ")
