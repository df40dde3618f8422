"""Kinds of values that options take."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)?")


class Duration(click.ParamType[float]):
    """A length of time in seconds: `90`, `90s`, `5m`, `2h`, `1d`, `1w`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds."""
        if isinstance(value, int | float):
            return float(value)
        if found := _LENGTH.fullmatch(value.strip()):
            return float(found[1]) * _UNITS[found[2] or "s"]
        raise click.BadParameter(f"{value!r} is not a length of time such as 90s, 5m, 2h or 1d", ctx, param)


class Moment(click.ParamType[datetime]):
    """A moment: ISO 8601, in local time unless it has an offset; or a length of time from now, or before now."""

    name = "moment"

    def __init__(self, *, past: bool) -> None:
        self._direction = -1 if past else 1

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The moment, in UTC."""
        if isinstance(value, datetime):
            return value
        if found := _LENGTH.fullmatch(value.strip()):
            length = timedelta(seconds=float(found[1]) * _UNITS[found[2] or "s"])
            return datetime.now(UTC) + self._direction * length
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            problem = f"{value!r} is neither a moment such as 2026-12-01T09:00 nor a length of time such as 2h"
            raise click.BadParameter(problem, ctx, param) from error


class Names(click.ParamType[list[str]]):
    """Names with commas between them."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """The names, without those that are empty."""
        return value if isinstance(value, list) else [name.strip() for name in value.split(",") if name.strip()]


class JSON(click.ParamType[Any]):
    """A JSON value."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise click.BadParameter(f"not JSON: {error}", ctx, param) from error


def flat(lists: tuple[list[str], ...]) -> list[str]:
    """The names of an option that was given several times."""
    return [name for names in lists for name in names]
