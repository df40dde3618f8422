"""How often a login may be tried. A try is counted before the secret is checked, so that many at once gain nothing."""

from collections import OrderedDict, deque
from dataclasses import dataclass

WINDOW_SECONDS = 60.0  # seconds
MAX_KEYS = 10_000  # accounts, addresses and browsers that are counted; the one that tried first is forgotten first


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """A login attempt: for which account, from which address, from which known browser (see Door.device)."""

    account: str
    address: str
    device: str | None = None


class Throttle:
    """Counts attempts in the last minute, for all together and by account and address.

    A browser that has logged in before is counted apart. So strangers who use up all the other attempts do not lock
    the owner out.
    """

    def __init__(self, *, by_address: int = 10, by_account: int = 20, together: int = 100, by_device: int = 10) -> None:
        """The most attempts a minute."""
        self._by_device = _Counter(by_device)
        self._by_address = _Counter(by_address)
        self._by_account = _Counter(by_account)
        self._together = _Counter(together)

    def admit(self, attempt: LoginAttempt, now: float) -> bool:
        """Count an attempt at that time, in seconds. Returns whether its secret may be checked."""
        return all(counter.admit(key, now) for counter, key in self._counted(attempt))

    def forgive(self, attempt: LoginAttempt) -> None:
        """The secret was right: the last attempt of that kind does not count."""
        for counter, key in self._counted(attempt):
            counter.forgive(key)

    def _counted(self, attempt: LoginAttempt) -> list[tuple["_Counter", str]]:
        if attempt.device is not None:
            return [(self._by_device, attempt.device)]
        return [(self._by_address, attempt.address), (self._by_account, attempt.account), (self._together, "")]


class _Counter:
    """Attempts in the last minute, by key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tries: OrderedDict[str, deque[float]] = OrderedDict()

    def admit(self, key: str, now: float) -> bool:
        tries = self._tries.setdefault(key, deque())
        while tries and now - tries[0] >= WINDOW_SECONDS:
            tries.popleft()
        if len(self._tries) > MAX_KEYS:
            self._tries.popitem(last=False)
        if len(tries) >= self._most:
            return False
        tries.append(now)
        return True

    def forgive(self, key: str) -> None:
        if tries := self._tries.get(key):
            tries.pop()
