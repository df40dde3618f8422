"""Helpers for mappings."""

from collections.abc import Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def without_none(mapping: Mapping[K, V | None]) -> dict[K, V]:
    """Return the items of a mapping whose values are not None."""
    return {key: value for key, value in mapping.items() if value is not None}
