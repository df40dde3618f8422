"""How often a login may be tried."""

from fluffle.web.access.throttle import MAX_KEYS, WINDOW_SECONDS, LoginAttempt, Throttle


def stranger(address: str = "10.0.0.1", account: str = "ana") -> LoginAttempt:
    return LoginAttempt(account, address)


def test_attempts_count_before_their_secret_is_checked() -> None:
    throttle = Throttle(by_address=10)
    assert [throttle.admit(stranger(), 0.0) for _ in range(300)].count(True) == 10


def test_an_attempt_counts_for_a_minute() -> None:
    throttle = Throttle(by_address=1)
    assert throttle.admit(stranger(), 0.0)
    assert not throttle.admit(stranger(), WINDOW_SECONDS - 1)
    assert throttle.admit(stranger(), WINDOW_SECONDS)


def test_a_right_secret_does_not_count() -> None:
    throttle = Throttle(by_address=1)
    for _ in range(5):
        assert throttle.admit(stranger(), 0.0)
        throttle.forgive(stranger())


def test_attempts_for_one_account_are_limited_over_all_addresses() -> None:
    throttle = Throttle(by_account=20)
    assert [throttle.admit(stranger(f"10.0.0.{number}"), 0.0) for number in range(100)].count(True) == 20
    assert throttle.admit(stranger("10.0.1.1", "ben"), 0.0)


def test_the_total_of_attempts_is_limited() -> None:
    throttle = Throttle(together=100)
    tried = [throttle.admit(stranger(f"10.0.0.{number}", f"name-{number}"), 0.0) for number in range(300)]
    assert tried.count(True) == 100


def test_a_stranger_with_one_address_does_not_use_up_the_attempts_of_others() -> None:
    throttle = Throttle(by_address=10, together=100)
    for _ in range(1000):
        throttle.admit(stranger(), 0.0)
    assert throttle.admit(stranger("10.0.0.2", "ben"), 0.0)


def test_the_browser_of_the_owner_is_counted_separately() -> None:
    throttle = Throttle(by_device=3)
    for number in range(1000):
        throttle.admit(stranger(f"10.0.{number // 250}.{number % 250}"), 0.0)
    owner = LoginAttempt("ana", "10.0.0.1", "browser")
    assert [throttle.admit(owner, 0.0) for _ in range(5)].count(True) == 3


def test_the_number_of_counted_keys_is_bounded() -> None:
    throttle = Throttle(together=10**9)
    for number in range(MAX_KEYS + 10):
        throttle.admit(stranger(str(number), str(number)), 0.0)
    counters = (throttle._by_address, throttle._by_account)
    assert [len(counter._tries) for counter in counters] == [MAX_KEYS, MAX_KEYS]
