"""Helpers for mappings."""

from broker.mappings import without_none


def test_items_without_a_value_are_left_out() -> None:
    assert without_none({"a": 0, "b": None, "c": ""}) == {"a": 0, "c": ""}
