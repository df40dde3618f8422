"""Every error that Fluffle raises on purpose.

FluffleError
├── ConfigurationError          a setting, an option or fluffle.toml is wrong
├── DecodeError                 a message does not follow the protocol
├── NodeError                   the private RabbitMQ node
├── HelperError                 work that is done in a process of its own
│   ├── HelperTimeout           it took too long, and the process was ended
│   └── HelperFailed            it raised an exception, or the process died
├── BrokerError                 talking to RabbitMQ
│   ├── BrokerUnreachable       nothing answers at the URL, or it closed the door
│   ├── AccessRefused           wrong user, password or permission
│   │   └── CertificateRefused  a TLS certificate that one side does not accept
│   ├── Unroutable              no queue is bound for the message
│   ├── PublishRefused          the queue is full, or the broker could not take the message
│   ├── MessageTooLarge         the body is over the limit
│   └── ConnectionClosed              the link was closed before the broker confirmed
├── StoreError                  the database
│   ├── StoreUnavailable        locked, read-only, full or away: try again later
│   └── NotTheLeader            another coordinator has taken over
├── IllegalTransition           a task cannot go from this state to that one
└── RequestError                the coordinator refused, or did not answer, a request
    ├── TaskRejected            a submission or command was refused, with every error by path
    ├── QueryRejected           a query was refused
    ├── TaskFailed              a task that was waited for has failed
    ├── TaskCancelled           a task that was waited for was cancelled
    ├── ResultTooLarge          a task that was waited for is completed, and its result is too large for an answer
    ├── MessageRejected         a message was refused, with every error by path
    ├── UnknownAddress          nobody has the address that a message was to go to
    └── NoAnswer                no answer came in time
        └── BrokerBlocked       RabbitMQ takes no messages: it is low on disk or memory
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean atlas?`, with the one of `known` that is much like `name`; nothing where none is."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class FluffleError(Exception):
    """Something went wrong in Fluffle"""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])


class Problem(NamedTuple):
    """One thing that is wrong with a message: where (a path such as `labels.0`, "" for the whole) and what."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigurationError(FluffleError):
    """A setting is wrong"""


class DecodeError(FluffleError):
    """The message does not follow the protocol"""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class NodeError(FluffleError):
    """The private RabbitMQ node has a problem"""


class HelperError(FluffleError):
    """A helper process did not do its work"""


class HelperTimeout(HelperError):
    """It took too long"""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it took longer than {seconds:g} s")


class HelperFailed(HelperError):
    """It raised an exception, or the process died"""


class BrokerError(FluffleError):
    """RabbitMQ did not do what was asked"""


class BrokerUnreachable(BrokerError):
    """RabbitMQ cannot be reached"""


class AccessRefused(BrokerError):
    """RabbitMQ refused the user, the password or the operation"""


class CertificateRefused(AccessRefused):
    """A TLS certificate was not accepted"""


class Unroutable(BrokerError):
    """No queue is bound for the message"""


class PublishRefused(BrokerError):
    """RabbitMQ refused the message: its queue is full or not available. Try again when less waits in it"""


class MessageTooLarge(BrokerError):
    """The message is larger than the limit"""

    def __init__(self, message: str | None = None, *, limit: int | None = None) -> None:
        """`limit` is how many bytes a message may have, where that is known."""
        super().__init__(message)
        self.limit = limit


class ConnectionClosed(BrokerError):
    """The link to RabbitMQ was closed"""


class StoreError(FluffleError):
    """The database did not do what was asked"""


class StoreUnavailable(StoreError):
    """The database cannot be used at the moment"""


class NotTheLeader(StoreError):
    """Another coordinator has taken over"""


class IllegalTransition(FluffleError):
    """The task cannot change in this way"""


class RequestError(FluffleError):
    """The request was not fulfilled"""


class TaskRejected(RequestError):
    """The task was rejected"""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class QueryRejected(RequestError):
    """The query was rejected"""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class TaskFailed(RequestError):
    """The task failed"""


class TaskCancelled(RequestError):
    """The task was cancelled"""


class ResultTooLarge(RequestError):
    """The task is completed, but its result is too large for an answer"""


class MessageRejected(RequestError):
    """The message was rejected"""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class UnknownAddress(RequestError):
    """Nobody has this address"""

    def __init__(self, told: str, meant: str | None = None) -> None:
        self.meant = meant
        super().__init__(f"{told}; did you mean {meant}?" if meant else told)


class NoAnswer(RequestError):
    """No coordinator answered in time"""


class BrokerBlocked(NoAnswer):
    """RabbitMQ takes no messages"""
