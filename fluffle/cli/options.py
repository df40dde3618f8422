"""Types of command-line values: durations, times, names, skills, JSON, …"""

import json
import re
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)?")
_MAX_SECONDS = 100 * 365 * 86_400.0


class Whole(click.IntRange):
    """A whole number in a range."""

    name = "integer"


class Positive(click.FloatRange):
    """A number above 0."""

    name = "number"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)


class Duration(click.ParamType[float]):
    """A duration in seconds: `90`, `90s`, `5m`, `2h`, `1d`, `1w`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, int | float):
            return float(value)
        if found := _LENGTH.fullmatch(value.strip()):
            return _seconds(found, ctx, param)
        raise click.BadParameter(f"{value!r} must be a duration such as 90s, 5m, 2h or 1d", ctx, param)


def _seconds(found: "re.Match[str]", ctx: click.Context | None, param: click.Parameter | None) -> float:
    length = float(found[1]) * _UNITS[found[2] or "s"]
    if length > _MAX_SECONDS:
        raise click.BadParameter(f"{found[0]!r} is longer than 100 years", ctx, param)
    return length


class Moment(click.ParamType[datetime]):
    """A time: ISO 8601, in local time unless it has an offset; or a duration from now, or before now.

    A duration needs its unit: `20261201` is a date.
    """

    name = "moment"

    def __init__(self, *, past: bool) -> None:
        self._direction = -1 if past else 1

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time in UTC."""
        if isinstance(value, datetime):
            return value
        value = value.strip()
        found = _LENGTH.fullmatch(value)
        if found and found[2]:
            return datetime.now(UTC) + self._direction * timedelta(seconds=_seconds(found, ctx, param))
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            problem = f"{value!r} must be a time such as 2026-12-01T09:00, or a duration such as 2h"
            if found:
                problem = f"{value!r} has no unit: write {value}s for seconds or {value}h for hours"
            raise click.BadParameter(problem, ctx, param) from error


class Names(click.ParamType[list[str]]):
    """Comma-separated names."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the names, without empty ones."""
        return value if isinstance(value, list) else [name.strip() for name in value.split(",") if name.strip()]


class JSON(click.ParamType[Any]):
    """A JSON value."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise click.BadParameter(f"not JSON: {error}", ctx, param) from error
        except RecursionError as error:
            raise click.BadParameter("nested too deeply", ctx, param) from error


def schema_of(path: str) -> Any:
    """Return the JSON Schema in a file, or on standard input for `-`."""
    from workers.models.base import ModelError
    from workers.models.output import check_schema

    schema = JSON().convert(text_of(path), None, None)
    try:
        check_schema(schema)
    except ModelError as error:
        raise click.UsageError(f"{path}: {error}") from error
    return schema


class Name(click.ParamType[str]):
    """The name of an LLM."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        from broker.protocol.primitives import NAME_PATTERN

        if re.search(NAME_PATTERN, value):
            return str(value)
        raise click.BadParameter(f"{value!r} is not a valid name: use 1-63 of a-z, 0-9 and '-'", ctx, param)


class Tag(click.ParamType[str]):
    """A tag, such as the name of a rate limit."""

    name = "tag"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the tag."""
        from broker.protocol.primitives import TAG_PATTERN

        if re.search(TAG_PATTERN, value):
            return str(value)
        problem = f"{value!r} is not a valid name: use 1-63 of a-z, 0-9 and ._:+/- (not first)"
        raise click.BadParameter(problem, ctx, param)


class Skills(click.ParamType[dict[str, float]]):
    """Comma-separated skills, each with an optional level: `python=0.9,review`."""

    name = "skills"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:
        """Return levels by tag; the default level is 1.0."""
        if isinstance(value, dict):
            return value
        skills = {}
        for skill in filter(None, (part.strip() for part in value.split(","))):
            tag, given, level = skill.partition("=")
            if not re.fullmatch(r"[a-z0-9][a-z0-9._:+/-]{0,62}", tag):
                raise click.BadParameter(f"{tag!r} is not a valid skill: use lower case, such as python", ctx, param)
            if (given and not re.fullmatch(r"0|1|[01]?\.\d+", level)) or float(level or 1) > 1:
                raise click.BadParameter(f"the level of {tag} must be a number from 0 to 1, not {level!r}", ctx, param)
            skills[tag] = float(level or 1)
        return skills


class Weights(click.ParamType[dict[str, float]]):
    """Comma-separated numbers by name: `ada=2,bob=0.5`."""

    name = "weights"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:
        """Return the numbers by name."""
        if isinstance(value, dict):
            return value
        found = re.fullmatch(r"(?:[a-z0-9][a-z0-9-]*=\d+(?:\.\d+)?(?:,|$))+", value)
        if not found:
            raise click.BadParameter(f"{value!r} must be names and numbers such as ada=2,bob=0.5", ctx, param)
        split = (part.partition("=") for part in value.split(",") if part)
        return {name: float(number) for name, _, number in split}


class ModelPrice(click.ParamType[Any]):
    """A price in US dollars per million tokens, for the LLM or for one of its models: `0`, `0.5,2`, `MODEL=0.5,2,0.05`.

    The figures are those of input, output, cached input and input that is written to a cache. `0` and `free`: nothing
    costs anything.
    """

    name = "price"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Return the name of the model, empty for the LLM, and its Price."""
        from pydantic import ValidationError

        from broker.protocol.worker_reports import Price

        if isinstance(value, tuple):
            return value
        model, _, figures = value.rpartition("=")
        try:
            numbers = [float(figure) for figure in ("0" if figures == "free" else figures).split(",")]
            if numbers == [0.0]:
                numbers = [0.0, 0.0]
            if not 2 <= len(numbers) <= 4:
                raise ValueError(figures)
            return model, Price(**dict(zip(("input", "output", "cached_input", "cache_write"), numbers, strict=False)))
        except (ValueError, ValidationError) as error:
            problem = f"{value!r} must be INPUT,OUTPUT[,CACHED[,WRITTEN]] in dollars per million tokens, or 0"
            raise click.BadParameter(problem, ctx, param) from error


class SpillOver(click.ParamType[Any]):
    """When a reserve LLM gets tasks although others work: `late`, `busy`, `busy:SECONDS` or `never`."""

    name = "spill"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, float]:
        """Return when, and the seconds of `busy`."""
        from broker.protocol.worker_reports import SPILL_AFTER_SECONDS

        if isinstance(value, tuple):
            return value
        when, given, after = value.partition(":")
        if when not in ("late", "busy", "never") or (given and when != "busy"):
            raise click.BadParameter(f"{value!r} must be late, busy, busy:SECONDS or never", ctx, param)
        seconds = Duration().convert(after, param, ctx) if given else SPILL_AFTER_SECONDS
        if seconds <= 0:
            raise click.BadParameter(f"{value!r}: the time must be longer than 0", ctx, param)
        return when, seconds


class Abilities(click.ParamType[list[str]]):
    """Comma-separated abilities of an LLM besides text, or `none`."""

    name = "abilities"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the abilities."""
        from typing import get_args

        from broker.protocol.primitives import Ability

        if isinstance(value, list):
            return value
        abilities = [] if value == "none" else [name.strip() for name in value.split(",") if name.strip()]
        if unknown := [name for name in abilities if name not in get_args(Ability)]:
            known = ", ".join(get_args(Ability))
            raise click.BadParameter(f"{unknown[0]!r} must be one of none, {known}", ctx, param)
        return abilities


class Tools(click.ParamType[list[str]]):
    """Comma-separated tools of an LLM, or `all`, or `none`."""

    name = "tools"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the names of the tools."""
        from broker.protocol.task_requests import TOOLS

        if isinstance(value, list):
            return value
        if value in ("all", "none"):
            return list(TOOLS) if value == "all" else []
        tools = [name.strip().replace("-", "_") for name in value.split(",") if name.strip()]
        if unknown := [name for name in tools if name not in TOOLS]:
            raise click.BadParameter(f"{unknown[0]!r} must be one of all, none, {', '.join(TOOLS)}", ctx, param)
        return tools


class Nothing(Enum):
    """The value of `OrNothing` for its word. None would mean that the option was not given."""

    NOTHING = auto()


class OrNothing(click.ParamType[Any]):
    """A value of another type, or a word that removes the current value."""

    def __init__(self, kind: click.ParamType[Any], word: str = "none") -> None:
        self.name = f"{kind.name}|{word}"
        self._kind = kind
        self._word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value, or NOTHING."""
        return Nothing.NOTHING if value == self._word else self._kind.convert(value, param, ctx)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, with None for those that remove a value."""
    return {name: None if value is Nothing.NOTHING else value for name, value in options.items() if value is not None}


def pairs(texts: tuple[str, ...], option: str = "--metadata") -> dict[str, str]:
    """Return the pairs of an option that takes KEY=VALUE."""
    split = [text.partition("=") for text in texts]
    if wrong := [key for key, equals, _ in split if not equals]:
        raise click.BadParameter(f"{wrong[0]!r} must be KEY=VALUE", param_hint=option)
    return {key: value for key, _, value in split}


def text_of(path: str) -> str:
    """Return the text of a file, or of standard input for `-`, without a byte order mark."""
    with click.open_file(path, "rb") as file:
        content: bytes = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = "standard input" if path == "-" else path
        raise click.UsageError(f"{where} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def flat(lists: tuple[list[str], ...]) -> list[str]:
    """Return the names of an option that may be repeated, as one list."""
    return [name for names in lists for name in names]
