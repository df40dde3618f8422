"""The base of all messages: field types with their limits, the model class, and `decode`.

`decode` repairs messages that strict decoding refuses for something harmless: many languages write null for an absent
value and 7.0 for 7, and workers report unknown fields and impossible figures. No task or answer is lost over that.
Only the refused places of a refused message are repaired; correct messages cost nothing extra.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, cast, get_args

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from broker.errors import DecodeError, Problem
from broker.protocol.portable_text import is_portable

PROTOCOL_VERSION = "1"
LOCAL = "local"  # a label of an LLM that sends no data to other machines
LOCAL_ONLY = "local-only"  # a label of a task that only such LLMs may do
MAX_BODY_BYTES = 1024 * 1024
MAX_ASSIGNMENT_BYTES = 16 * 1024 * 1024  # a task with the results of its dependencies
MAX_GROUP_RESULT_BYTES = 8 * 1024 * 1024  # all results of the parts of a group task together
MAX_ANSWER_BYTES = 12 * 1024 * 1024  # an answer of the coordinator; RabbitMQ 4 accepts messages of 16 MiB
MAX_PAGE_BYTES = 2 * 1024 * 1024  # a page of a list ends when it is larger
JSON_TYPE = "application/json"
EVENT_TYPE = "application/cloudevents+json"

NOT_DATA = "is an AMQP 1.0 value section: send the JSON as one data section"
_AMQP_1_SECTION = b"\0S"  # the first bytes of other sections after RabbitMQ's translation to AMQP 0-9-1

MAX_TEXT = 20_000  # characters of a question or an answer
MAX_LEVELS = 100  # of nesting in a message; parsers read 200, and the coordinator nests it deeper

_PATTERN_ERRORS: dict[str, str] = {}  # the error message for text that does not match a pattern


def matching(pattern: str, otherwise: str) -> Any:
    """Return a field of text that must match a pattern; `otherwise` is the error message."""
    _PATTERN_ERRORS[pattern] = otherwise
    return Field(pattern=pattern)


NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
TAG_PATTERN = r"^[a-z0-9][a-z0-9._:+/-]{0,62}$"
_ID_PATTERN = r"^[A-Za-z0-9._:-]{1,64}$"
_TEXT_PATTERN = r"^[^\x00]*$"
_LINE_PATTERN = r"^[^\x00-\x1f]{1,100}$"

Name = Annotated[str, matching(NAME_PATTERN, 'must be 1-63 characters: a-z, 0-9 or "-" (not first)')]
TaskId = Annotated[str, matching(_ID_PATTERN, "must be 1-64 characters: A-Z, a-z, 0-9 or any of ._:-")]
Tag = Annotated[str, matching(TAG_PATTERN, "must be 1-63 characters: a-z, 0-9 or any of ._:+/- (not first)")]
Text = Annotated[str, Field(min_length=1), matching(_TEXT_PATTERN, "must not contain NUL characters")]
Storable = Annotated[str, matching(_TEXT_PATTERN, "must not contain NUL characters")]  # also empty
NoteName = Annotated[str, matching(_LINE_PATTERN, "must be 1-100 characters on one line")]


NO_UTF8 = "cannot be encoded as UTF-8: contains half of a surrogate pair, or bytes of another encoding"


def _portable_json(value: JsonValue) -> JsonValue:
    """Return JSON that every part of the system can pass on.

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
                raise ValueError("contains a number that is out of range")
        if not inner:
            return value
        level = inner
    raise ValueError(f"nested deeper than {MAX_LEVELS} levels")


def in_utc(moment: datetime) -> datetime:
    """Return a time in UTC. Raises ValueError for a time outside of the years 1 to 9999."""
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is out of range") from error


Moment = Annotated[AwareDatetime, AfterValidator(in_utc)]
Json = Annotated[JsonValue, AfterValidator(_portable_json)]
JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_portable_json)]
Level = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Tokens = Annotated[int, Field(ge=0, le=10**12)]
Dollars = Annotated[float, Field(ge=0, le=1_000_000)]  # US dollars
ContextWindow = Annotated[int, Field(ge=1, le=10**9)]  # tokens of a prompt and its answer
Ability = Literal["tools", "pictures", "schema"]  # what a model can do besides text
Spill = Literal["late", "busy", "never"]  # when a reserve LLM gets tasks although others work


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters; a longer text is cut and ends with `…`."""
    return text if len(text) <= most else text[: most - 1] + "…"


class WireModel(BaseModel):
    """A message body: immutable, without unknown fields and without silent conversions.

    `decode` leaves out unknown fields of a message class with `ignores_unknown`, and invalid values of `dispensable`
    fields, which do not affect the task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    ignores_unknown: ClassVar[bool] = False
    dispensable: ClassVar[frozenset[str]] = frozenset()

    def encode(self) -> bytes:
        """Return the body as JSON, without fields that are None."""
        return self.model_dump_json(exclude_none=True).encode()


M = TypeVar("M", bound=BaseModel)


OnIgnored = Callable[[Sequence[Problem]], object]
"""Called with the fields that were left out of a message that is valid without them."""


def decode(kind: type[M], body: bytes, *, limit: int = MAX_BODY_BYTES, on_ignored: OnIgnored | None = None) -> M:
    """Decode a body as a message of a class. Raises only DecodeError, which names every problem with its path.

    An optional field may be null, and an integer may be written as 7.0.
    """
    if len(body) > limit:
        raise DecodeError([Problem("", f"the body has {len(body):,} bytes; the limit is {limit:,}")])
    try:
        if b"NaN" in body or b"Infinity" in body:  # not JSON, but the model's parser accepts both
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
    """A message without its harmless errors, and the fields that were left out."""

    body: bytes
    ignored: list[Problem]


class _Step(NamedTuple):
    """A place in a message: an object or list, and the key of a value in it.

    `model` is the model class of the object, if it has one.
    """

    container: Any
    key: Any
    model: type[BaseModel] | None


def _normalized(kind: type[BaseModel], body: bytes, error: ValidationError) -> _Repaired | None:
    """Return the body without its harmless errors; None when it has no such errors. It may still be invalid."""
    try:
        data = from_json(body)
    except ValueError:
        return None
    ignored: list[Problem] = []
    changed = False
    for item in error.errors(include_url=False):
        steps = list(_path(data, kind, item["loc"]))
        if not steps:
            continue
        if _renotated(steps[-1], item):
            changed = True
        elif length := _removable(steps, item):
            step = steps[length - 1]
            del step.container[step.key]
            ignored.append(Problem(".".join(str(step.key) for step in steps[:length]), item["msg"]))
            changed = True
    return _Repaired(to_json(data, inf_nan_mode="constants"), ignored) if changed else None


def _removable(steps: list[_Step], item: ErrorDetails) -> int:
    """Return the length of the path to the field that can be left out to remove the error; 0 when there is none."""
    if item["type"] == "extra_forbidden":
        return len(steps) if getattr(steps[-1].model, "ignores_unknown", False) else 0
    places = range(len(steps), 0, -1)  # the innermost first
    return next((at for at in places if steps[at - 1].key in getattr(steps[at - 1].model, "dispensable", ())), 0)


def _renotated(step: _Step, item: ErrorDetails) -> bool:
    """Replace a valid value in another notation. Returns whether the value was one."""
    value = item["input"]
    if value is None and step.model is not None and step.key in step.model.model_fields:
        del step.container[step.key]
        return True
    if item["type"] == "int_type" and isinstance(value, float) and value.is_integer():
        step.container[step.key] = int(value)
        return True
    return False


def _path(data: Any, kind: type[BaseModel], loc: tuple[int | str, ...]) -> Iterator[_Step]:
    """Iterate over the steps to the place of an error, as far as they exist in the message."""
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
    """Return the model class of a field or of its items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)


def problems(error: ValidationError) -> list[Problem]:
    """Convert pydantic's errors: dotted paths, and no copy of the input."""
    return [
        Problem(".".join(str(part) for part in item["loc"] if part != "[key]"), _message(item))
        for item in error.errors(include_url=False, include_input=False)
    ]


def _message(item: ErrorDetails) -> str:
    match item["type"]:
        case "string_pattern_mismatch":
            return _PATTERN_ERRORS.get(item["ctx"]["pattern"], item["msg"])
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
