"""Limits for login attempts. An attempt counts before its secret is checked, also with parallel attempts."""

from collections import OrderedDict, deque
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
MAX_KEYS = 10_000  # counted accounts, addresses and browsers; the oldest is forgotten first


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """A login attempt: its account, its address, and its browser if known (see Authenticator.device)."""

    account: str
    address: str
    device: str | None = None


class Throttle:
    """Counts the attempts of the last minute: in total, by account and by address.

    Browsers that have logged in before are counted separately. So strangers who use up all attempts do not lock out
    the owner.
    """

    def __init__(self, *, by_address: int = 10, by_account: int = 20, together: int = 100, by_device: int = 10) -> None:
        """Set the maximum numbers of attempts per minute."""
        self._by_device = _Counter(by_device)
        self._by_address = _Counter(by_address)
        self._by_account = _Counter(by_account)
        self._together = _Counter(together)

    def admit(self, attempt: LoginAttempt, now: float) -> bool:
        """Count an attempt at time `now`, in seconds. Returns whether its secret may be checked."""
        return all(counter.admit(key, now) for counter, key in self._counted(attempt))

    def forgive(self, attempt: LoginAttempt) -> None:
        """Uncount the last such attempt: its secret was right."""
        for counter, key in self._counted(attempt):
            counter.forgive(key)

    def _counted(self, attempt: LoginAttempt) -> list[tuple["_Counter", str]]:
        if attempt.device is not None:
            return [(self._by_device, attempt.device)]
        return [(self._by_address, attempt.address), (self._by_account, attempt.account), (self._together, "")]


class _Counter:
    """The attempts of the last minute, by key."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tries: OrderedDict[str, deque[float]] = OrderedDict()

    def admit(self, key: str, now: float) -> bool:
        tries = self._tries.setdefault(key, deque())
        while tries and now - tries[0] >= WINDOW_SECONDS:
            tries.popleft()
        if len(self._tries) > MAX_KEYS:
            self._tries.popitem(last=False)
        if len(tries) >= self._limit:
            return False
        tries.append(now)
        return True

    def forgive(self, key: str) -> None:
        if tries := self._tries.get(key):
            tries.pop()
