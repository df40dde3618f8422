"""The window of a quarantined queue."""

from broker.amqp.quarantine import Window


def settled(window: Window, count: int) -> int:
    for _ in range(count):
        window.settle()
    return window.size


def test_a_window_begins_with_one_message_and_doubles_when_all_are_settled() -> None:
    window = Window(10)
    assert window.size == 1
    assert [settled(window, count) for count in (1, 2, 4, 8, 100)] == [2, 4, 8, 10, 10]


def test_a_failed_delivery_resets_the_window_to_one_message() -> None:
    window = Window(3000)
    settled(window, 1000)
    window.fail()
    assert window.size == 1
    assert settled(window, 1) == 2


def test_a_window_reports_when_it_has_grown() -> None:
    window = Window(4)
    assert [window.settle() for _ in range(9)] == [True, False, True, False, False, False, False, False, False]


def test_no_good_message_reaches_the_delivery_limit_wherever_the_bad_ones_are() -> None:
    """Each bad message is delivered until its limit. The good ones are settled in the order of the queue."""
    most = 3000
    for distance in (1, 2, 3, 5, 10, 100):
        queue = ["bad" if place % (distance + 1) == 0 else "good" for place in range(6 * most)]
        window, counts, at = Window(most), dict.fromkeys(range(len(queue)), 0), 0
        while at < len(queue):
            under_way = range(at, min(at + window.size, len(queue)))
            if bad := next((place for place in under_way if queue[place] == "bad"), None):
                for place in under_way:
                    counts[place] += 1
                window.fail()
                if counts[bad] > 20:
                    queue[bad] = "dead"
                continue
            if queue[at] == "good":
                window.settle()
            at += 1
        assert max(count for place, count in counts.items() if queue[place] == "good") < 20
