"""A dict and a set that keep only their newest items."""

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedDict(dict[K, V]):
    """A dict that drops its oldest key when it has more than `limit`.

    A key that is set again keeps its age. Only item assignment observes the limit.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        if len(self) > self._limit:
            del self[next(iter(self))]


class BoundedSet(Generic[K]):
    """A set that drops its oldest item when it has more than `limit`, such as the ids of the latest messages."""

    def __init__(self, items: Iterable[K] = (), *, limit: int = 10_000) -> None:
        self._items: BoundedDict[K, None] = BoundedDict(limit)
        for item in items:
            self.add(item)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: K) -> bool:
        """Add an item. Returns whether the item is new."""
        if item in self._items:
            return False
        self._items[item] = None
        return True
