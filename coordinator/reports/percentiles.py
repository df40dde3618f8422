"""Percentiles, exactly, by nearest rank: of n values in ascending order, the one in place ceil(n * percent / 100).

They are the same in every database, because only whole numbers are compared and counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, literal_column, or_, select, union_all

Key = tuple[Any, ...]

VALUE = "value"  # the column that is not a key


def rank(count: int, percent: int) -> int:
    """The place, from 1, of a percentile among so many values."""
    return -(-count * percent // 100)


def percentiles(
    connection: Connection, selects: Sequence[Select[Any]], percents: Sequence[int]
) -> Mapping[Key, Mapping[int, int]]:
    """For every key of these statements together, and each of the percents: the value.

    Every row is a key, column by column, then a whole number `value`; rows without it do not count.
    """
    values = union_all(*selects).subquery()
    *keys, value = values.c
    place = func.row_number().over(partition_by=keys or None, order_by=value).label("place")
    count = func.count().over(partition_by=keys or None).label("n")
    ranked = select(*keys, value, place, count).where(value.is_not(None)).subquery()
    at = {
        percent: (ranked.c.n * literal_column(str(percent)) + literal_column("99")) // literal_column("100")
        for percent in percents
    }
    chosen = select(ranked).where(or_(*(ranked.c.place == one for one in at.values())))
    found: dict[Key, dict[int, int]] = {}
    for *key, one, its_place, n in connection.execute(chosen):
        here = found.setdefault(tuple(key), {})
        here.update({percent: int(one) for percent in percents if rank(n, percent) == its_place})
    return found
