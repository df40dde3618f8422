"""The benchmark of the storage on a small scale: both ways give the same, and both are timed."""

from benchmarks.storage import measure_percentiles, measure_writes


def test_both_ways_of_writing_are_timed() -> None:
    took = measure_writes(5, 2)
    assert {name: len(times) for name, times in took.items()} == {"SQLAlchemy": 2, "bulk_sql": 2}


def test_sorting_and_the_sample_find_the_same_percentiles() -> None:
    took = measure_percentiles(200, 1)  # which compares them
    assert {name: len(times) for name, times in took.items()} == {"sorting": 1, "sample": 1}
