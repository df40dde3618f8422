"""Growing pauses between attempts."""

from itertools import islice

from broker.backoff import Backoff


def test_pauses_double_up_to_the_maximum() -> None:
    assert list(islice(Backoff(0.5, 3.0).pauses(), 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_pauses_begin_again_with_each_iteration() -> None:
    backoff = Backoff(0.5, 3.0)
    assert next(backoff.pauses()) == next(backoff.pauses()) == 0.5


def test_pauses_grow_by_the_factor() -> None:
    assert [Backoff(1, 100, factor=3).pause(failures) for failures in (1, 2, 3)] == [1, 3, 9]


def test_any_number_of_failures_has_a_pause() -> None:
    assert Backoff(0.1, 5.0).pause(100_000) == 5.0


def test_jitter_spreads_a_pause_around_its_length() -> None:
    found = {Backoff(4.0, 8.0, jitter=0.25).pause(1) for _ in range(100)}
    assert len(found) > 1
    assert all(3.0 <= pause <= 5.0 for pause in found)
