"""The page "How to write a worker" shows valid messages of the protocol."""

import re

from broker.protocol.assignments import Assignment, Drain, Slots, Stop
from broker.protocol.primitives import WireModel, decode
from broker.protocol.worker_reports import Claim, Goodbye, Presence, Progress, Result
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "howto-write-a-worker.md"

SHOWN: tuple[type[WireModel], ...] = (
    Presence,
    Assignment,
    Claim,
    Progress,
    Result,
    Result,
    Result,
    Stop,
    Drain,
    Slots,
    Goodbye,
)


def test_every_message_on_the_page_can_be_decoded() -> None:
    shown = re.findall(r"^ *```json\n(.*?)^ *```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    decoded = [decode(kind, body.encode()) for kind, body in zip(SHOWN, shown, strict=True)]
    outcomes = [message.outcome for message in decoded if isinstance(message, Result)]
    assert outcomes == ["completed", "failed", "cancelled"]
