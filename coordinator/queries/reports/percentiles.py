"""Exact percentiles by nearest rank: of n values in ascending order, the one in place ceil(n * percent / 100).

They are the same in SQLite and PostgreSQL, because only whole numbers are compared and counted.

`SampledPercentiles` finds those of all tasks together without sorting them. `benchmarks/storage.py` compares it with
the sort of `by_group`, for the five durations of the reports on SQLite: as fast for 50,000 tasks (0.6 s), 3.4 times as
fast for 200,000 (1.3 s against 4.4 s). So it is used from MIN_SAMPLED values on.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from math import isqrt
from sys import byteorder
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, func, literal_column, or_, select, union_all

from coordinator.queries.reports.facts import Fact

Key = tuple[Any, ...]
Selects = Sequence[Select[Any]]
Bracket = tuple[int, int]  # the lowest and the highest value in it

MIN_SAMPLED = 50_000  # values, from which on they are not sorted
SAMPLE_SIZE = 30_000  # values, from which the bracket of a percentile is estimated
SPREAD = 4  # half the width of a bracket, in standard deviations; if it misses, all values are sorted
LEAST, MOST = -(2**63), 2**63 - 1


def place_of(count: int, percent: int) -> int:
    """Return the place, from 1, of a percentile among `count` values."""
    return -(-count * percent // 100)


def value_at(place: int, lists: Sequence[Sequence[int]]) -> int:
    """Return the value in that place, from 1, of all these lists together. Each is sorted and not empty."""
    low, high = min(its[0] for its in lists), max(its[-1] for its in lists)
    starts, ends = [0] * len(lists), [len(its) for its in lists]  # the slices that can still hold it
    while low < high:
        middle = (low + high) // 2
        cuts = list(map(bisect_right, lists, repeat(middle), starts, ends))
        if sum(cuts) < place:
            low, starts = middle + 1, cuts
        else:
            high, ends = middle, cuts
    return low


def packed(values: Iterable[int]) -> bytes:
    """Return sorted durations in their stored form: 8 bytes each, little-endian."""
    its = array("q", values)
    if byteorder == "big":
        its.byteswap()
    return its.tobytes()


def unpacked(stored: bytes) -> Sequence[int]:
    """Return the durations of that stored form."""
    its = array("q", stored)
    if byteorder == "big":
        its.byteswap()
    return its


def by_group(connection: Connection, selects: Selects, percents: Sequence[int]) -> dict[Key, dict[int, int]]:
    """Return the percentiles of every group, by sorting in the database.

    Each row of the statements is the columns of the group's key, then a whole number. NULL numbers are left out.
    """
    rows = union_all(*selects).subquery()
    *keys, value = rows.c
    place = func.row_number().over(partition_by=keys or None, order_by=value).label("place")
    count = func.count().over(partition_by=keys or None).label("n")
    ranked = select(*keys, value, place, count).where(value.is_not(None)).subquery()
    places = [(ranked.c.n * _number(percent) + _number(99)) // _number(100) for percent in percents]
    wanted = select(ranked).where(or_(*(ranked.c.place == its for its in places)))
    found: dict[Key, dict[int, int]] = {}
    for *key, one, its_place, n in connection.execute(wanted):
        here = found.setdefault(tuple(key), {})
        here.update({percent: int(one) for percent in percents if place_of(n, percent) == its_place})
    return found


class SampledPercentiles:
    """Percentiles of all tasks of a fact, without sorting them.

    A sample gives a bracket that probably contains the percentile. The values below the bracket are counted and those
    in it are fetched, so that the result is exact (Floyd and Rivest, Algorithm 489: SELECT, 1975).
    """

    def __init__(self, connection: Connection, fact: Fact, measures: Mapping[str, ColumnElement[Any]]) -> None:
        self._connection = connection
        self._fact = fact
        self._measures = measures

    def values(self, counts: Mapping[str, int], percents: Sequence[int]) -> dict[str, dict[int, int]]:
        """Return the percentiles of each measure, which has `counts` values. One outside its bracket is missing."""
        brackets = self._brackets(counts, percents)
        below = self._below(brackets)
        found: dict[str, dict[int, int]] = {}
        for name in self._measures:
            inside = self._inside(name, [brackets[name, percent] for percent in percents])
            for percent in percents:
                its_rank = place_of(counts[name], percent) - below[name, percent]
                value = _at(inside, brackets[name, percent], its_rank)
                if value is not None:
                    found.setdefault(name, {})[percent] = value
        return found

    def _rows(self, columns: Sequence[ColumnElement[Any]], *where: ColumnElement[bool]) -> Iterable[Any]:
        for statement in self._fact.selects(columns, group=False):
            yield from self._connection.execute(statement.where(*where))

    def _brackets(self, counts: Mapping[str, int], percents: Sequence[int]) -> dict[tuple[str, int], Bracket]:
        step = max(1, max(counts.values()) // SAMPLE_SIZE)
        scattered = self._fact.seq * _number(40503) % _number(65521)  # neighbours are often alike
        rows = list(self._rows([*self._measures.values()], scattered % _number(step) == 0))
        brackets = {}
        for place, name in enumerate(self._measures):
            sample = sorted(row[place] for row in rows if row[place] is not None)
            for percent in percents:
                brackets[name, percent] = _bracket(sample, percent)
        return brackets

    def _below(self, brackets: Mapping[tuple[str, int], Bracket]) -> dict[tuple[str, int], int]:
        counted = [func.count().filter(self._measures[name] < low) for (name, _), (low, _) in brackets.items()]
        rows = list(self._rows(counted))
        return {key: sum(row[place] for row in rows) for place, key in enumerate(brackets)}

    def _inside(self, name: str, brackets: Sequence[Bracket]) -> dict[int, int]:
        """Return how often each value in one of the brackets occurs."""
        measure = self._measures[name]
        within = or_(*(measure.between(low, high) for low, high in brackets))
        found: dict[int, int] = {}
        for statement in self._fact.selects([measure.label("value"), func.count()], group=False):
            rows: Iterable[Any] = self._connection.execute(statement.where(within).group_by("value"))
            for value, count in rows:
                found[value] = found.get(value, 0) + count
        return found


def _number(value: int) -> ColumnElement[int]:
    return literal_column(str(value), BigInteger)


def _bracket(sample: Sequence[int], percent: int) -> Bracket:
    """Return the range that probably contains the percentile."""
    size = len(sample)
    place = size * percent // 100
    margin = SPREAD * isqrt(size * percent * (100 - percent)) // 100 + 1
    low = sample[place - margin] if place >= margin else LEAST
    high = sample[place + margin] if place + margin < size else MOST
    return low, high


def _at(counted: Mapping[int, int], bracket: Bracket, its_rank: int) -> int | None:
    """Return the value in that place, from 1, of those in the bracket; None when the bracket misses it."""
    low, high = bracket
    if its_rank < 1:
        return None
    for value in sorted(value for value in counted if low <= value <= high):
        its_rank -= counted[value]
        if its_rank < 1:
            return value
    return None
