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
    from broker.protocol.status import Status as Status
    from broker.protocol.task_requests import Submission as Submission
    from broker.protocol.task_requests import Vote as Vote
    from broker.protocol.views import LLMView as LLMView
    from broker.protocol.views import Placement as Placement
    from broker.protocol.views import ReportView as ReportView
    from broker.protocol.views import TaskView as TaskView
    from broker.protocol.worker_reports import Progress as Progress
    from fluffle.client.client import Client as Client
    from fluffle.client.events import Event as Event
    from fluffle.client.handle import TaskHandle as TaskHandle
    from fluffle.client.sync import SyncClient as SyncClient
    from fluffle.client.sync import SyncTask as SyncTask

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
    "broker.protocol.status": ("Status",),
    "broker.protocol.task_requests": ("Submission", "Vote"),
    "broker.protocol.views": ("LLMView", "Placement", "ReportView", "TaskView"),
    "broker.protocol.worker_reports": ("Progress",),
    "fluffle.client.client": ("Client",),
    "fluffle.client.handle": ("TaskHandle",),
    "fluffle.client.sync": ("SyncClient", "SyncTask"),
    "fluffle.client.events": ("Event",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = tuple(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
