"""Fluffle: a workforce of LLMs on RabbitMQ. This is its public face; a name is imported when it is first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.errors import BrokerBlocked as BrokerBlocked
    from broker.errors import BrokerUnreachable as BrokerUnreachable
    from broker.errors import FluffleError as FluffleError
    from broker.errors import NoAnswer as NoAnswer
    from broker.errors import QueryRejected as QueryRejected
    from broker.errors import ResultTooLarge as ResultTooLarge
    from broker.errors import TaskCancelled as TaskCancelled
    from broker.errors import TaskFailed as TaskFailed
    from broker.errors import TaskRejected as TaskRejected
    from broker.messages import Progress as Progress
    from broker.messages import Status as Status
    from broker.messages import Submission as Submission
    from broker.messages import Vote as Vote
    from broker.views import LLMView as LLMView
    from broker.views import Placement as Placement
    from broker.views import ReportView as ReportView
    from broker.views import TaskView as TaskView
    from fluffle.client import Client as Client
    from fluffle.handle import TaskHandle as TaskHandle
    from fluffle.sync import SyncClient as SyncClient
    from fluffle.sync import SyncTask as SyncTask
    from fluffle.watching import Event as Event

_HOMES = {
    "broker.errors": (
        "BrokerBlocked",
        "BrokerUnreachable",
        "FluffleError",
        "NoAnswer",
        "QueryRejected",
        "ResultTooLarge",
        "TaskCancelled",
        "TaskFailed",
        "TaskRejected",
    ),
    "broker.messages": ("Progress", "Status", "Submission", "Vote"),
    "broker.views": ("LLMView", "Placement", "ReportView", "TaskView"),
    "fluffle.client": ("Client",),
    "fluffle.handle": ("TaskHandle",),
    "fluffle.sync": ("SyncClient", "SyncTask"),
    "fluffle.watching": ("Event",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = tuple(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
