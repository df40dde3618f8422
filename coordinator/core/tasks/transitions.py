"""The states of a task and the one table that says how it goes from one to the next."""

from enum import Enum, auto

from broker.errors import IllegalTransition
from broker.protocol.status import Status


class Trigger(Enum):
    """What can happen to a task."""

    READY = auto()  # dependencies met, not_before reached, backoff over
    ASSIGN = auto()  # published to an LLM
    EXPAND = auto()  # made into parts, for several LLMs
    CLAIM = auto()  # an instance has taken it
    ASK = auto()  # its LLM asks a person
    RESUME = auto()  # its LLM has the answer, or goes on without
    RELEASE = auto()  # taken back from an LLM, to be assigned again
    BACK_OFF = auto()  # failed, to be tried again after a pause
    COMPLETE = auto()
    FAIL = auto()
    CANCEL = auto()
    RETRY = auto()  # a person wants a finished task to run once more


_S, _T = Status, Trigger

LIVE = (_S.BLOCKED, _S.PENDING, _S.ASSIGNED, _S.IN_PROGRESS, _S.INPUT_REQUIRED)

TRANSITIONS: dict[tuple[Status, Trigger], Status] = {
    (_S.BLOCKED, _T.READY): _S.PENDING,
    (_S.PENDING, _T.ASSIGN): _S.ASSIGNED,
    (_S.PENDING, _T.EXPAND): _S.IN_PROGRESS,
    (_S.ASSIGNED, _T.CLAIM): _S.IN_PROGRESS,
    (_S.IN_PROGRESS, _T.ASK): _S.INPUT_REQUIRED,
    (_S.INPUT_REQUIRED, _T.RESUME): _S.IN_PROGRESS,
    (_S.ASSIGNED, _T.RELEASE): _S.PENDING,
    (_S.IN_PROGRESS, _T.RELEASE): _S.PENDING,
    (_S.INPUT_REQUIRED, _T.RELEASE): _S.PENDING,
    (_S.ASSIGNED, _T.BACK_OFF): _S.BLOCKED,
    (_S.IN_PROGRESS, _T.BACK_OFF): _S.BLOCKED,
    # A late result of an older attempt counts as long as the task is open, wherever the task is by then.
    **{(live, _T.COMPLETE): _S.COMPLETED for live in LIVE},
    **{(live, _T.FAIL): _S.FAILED for live in LIVE},
    **{(live, _T.CANCEL): _S.CANCELLED for live in LIVE},
    **{(final, _T.RETRY): _S.BLOCKED for final in (_S.COMPLETED, _S.FAILED, _S.CANCELLED)},
}


def after(status: Status, trigger: Trigger) -> Status:
    """The state that follows. Raises IllegalTransition when the table has none."""
    try:
        return TRANSITIONS[status, trigger]
    except KeyError:
        raise IllegalTransition(f"a task that is {status} cannot {trigger.name.lower().replace('_', ' ')}") from None
