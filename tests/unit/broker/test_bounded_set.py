"""A dict and a set that keep only their newest items."""

from broker.bounded_set import BoundedDict, BoundedSet


def test_an_item_is_known_until_too_many_came_after_it() -> None:
    seen: BoundedSet[str] = BoundedSet(limit=2)
    assert [seen.add(item) for item in ("a", "a", "b", "c", "a")] == [True, False, True, True, True]
    assert "b" not in seen
    assert len(seen) == 2


def test_the_first_items_of_a_set_count_too() -> None:
    seen = BoundedSet(["a", "b", "c"], limit=2)
    assert [item in seen for item in ("a", "b", "c")] == [False, True, True]


def test_a_dict_drops_its_oldest_key() -> None:
    counts: BoundedDict[str, int] = BoundedDict(2)
    counts["a"] = 1
    counts["b"] = 1
    counts["a"] = 2
    counts["c"] = 1
    assert counts == {"b": 1, "c": 1}
