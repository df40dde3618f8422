"""The errors of Fluffle.

FluffleError
├── ConfigurationError          a setting, an option or fluffle.toml is wrong
├── DecodeError                 a message does not follow the protocol
├── NodeError                   the private RabbitMQ node
├── HelperError                 a call in a child process
│   ├── HelperTimeout           the call took too long, and the process was killed
│   └── HelperFailed            the call raised an exception, or the process died
├── BrokerError                 the connection to RabbitMQ
│   ├── BrokerUnreachable       nothing answers at the URL, or the connection was closed at once
│   ├── AccessRefused           wrong user, password or permission
│   │   └── CertificateRefused  one side did not accept a TLS certificate
│   ├── Unroutable              no queue is bound for the message
│   ├── PublishRefused          the queue is full, or RabbitMQ could not take the message
│   ├── MessageTooLarge         the body is over the limit
│   └── ConnectionClosed        the connection was closed before RabbitMQ confirmed the message
├── StoreError                  the database
│   ├── StoreUnavailable        locked, read-only, full or unreachable: try again later
│   └── NotTheLeader            another coordinator has taken over
├── IllegalTransition           a task cannot change from one status to another
└── RequestError                the coordinator refused, or did not answer, a request
    ├── TaskRejected            a submission or command was rejected; has every problem with its path
    ├── QueryRejected           a query was rejected
    ├── TaskFailed              the awaited task failed
    ├── TaskCancelled           the awaited task was cancelled
    ├── ResultTooLarge          the awaited task is completed, but its result is too large for an answer
    ├── MessageRejected         a message was rejected; has every problem with its path
    ├── UnknownAddress          nobody has the receiver's address
    └── NoAnswer                no answer arrived in time
        └── BrokerBlocked       RabbitMQ accepts no messages: it is low on disk or memory
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean atlas?` with the known name most similar to `name`; "" when none is similar."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class FluffleError(Exception):
    """Fluffle failed"""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])


class Problem(NamedTuple):
    """A problem of a message: its path, such as `labels.0` ("" for the whole message), and what is wrong."""

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
    """A helper process failed"""


class HelperTimeout(HelperError):
    """The call took too long"""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it took longer than {seconds:g} s")


class HelperFailed(HelperError):
    """The call raised an exception, or the process died"""


class BrokerError(FluffleError):
    """A request to RabbitMQ failed"""


class BrokerUnreachable(BrokerError):
    """RabbitMQ cannot be reached"""


class AccessRefused(BrokerError):
    """RabbitMQ refused the user, the password or the operation"""


class CertificateRefused(AccessRefused):
    """A TLS certificate was not accepted"""


class Unroutable(BrokerError):
    """No queue is bound for the message"""


class PublishRefused(BrokerError):
    """RabbitMQ refused the message: its queue is full or unavailable. Try again later"""


class MessageTooLarge(BrokerError):
    """The message is larger than the limit"""

    def __init__(self, message: str | None = None, *, limit: int | None = None) -> None:
        """`limit`: the most bytes of a message, if known."""
        super().__init__(message)
        self.limit = limit


class ConnectionClosed(BrokerError):
    """The connection to RabbitMQ was closed"""


class StoreError(FluffleError):
    """A database operation failed"""


class StoreUnavailable(StoreError):
    """The database cannot be used at the moment"""


class NotTheLeader(StoreError):
    """Another coordinator has taken over"""


class IllegalTransition(FluffleError):
    """The task cannot change to this status"""


class RequestError(FluffleError):
    """The request failed"""


class TaskRejected(RequestError):
    """The submission or command was rejected"""

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

    def __init__(self, message: str, meant: str | None = None) -> None:
        self.meant = meant
        super().__init__(f"{message}; did you mean {meant}?" if meant else message)


class NoAnswer(RequestError):
    """No answer arrived in time"""


class BrokerBlocked(NoAnswer):
    """RabbitMQ accepts no messages"""
