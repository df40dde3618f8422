"""Which tasks a list shows, as it stands in the URL."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from broker.protocol.status import Status

PAGE = 50  # tasks


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Tasks in any of these states, of that LLM, with all labels and that text; the newest, or those `before`."""

    status: tuple[Status, ...] = ()
    llm: str = ""
    labels: tuple[str, ...] = ()
    text: str = ""
    before: int | None = None

    @classmethod
    def read(cls, pairs: Iterable[tuple[str, str]]) -> "TaskFilter":
        """From a query or a form. What it does not understand is left out."""
        given: dict[str, list[str]] = {}
        for name, value in pairs:
            if value.strip():
                given.setdefault(name, []).append(value.strip())
        before = given.get("before", [""])[-1]
        labels = " ".join(given.get("label", [])).replace(",", " ").split()
        return cls(
            status=tuple(status for status in Status if status.value in given.get("status", [])),
            llm=given.get("llm", [""])[-1],
            labels=tuple(dict.fromkeys(labels)),
            text=given.get("text", [""])[-1],
            before=int(before) if before.isdecimal() and len(before) < 16 else None,
        )

    def query(self) -> str:
        """As the query of a URL, which `read` reads; empty when all tasks are shown."""
        pairs = [
            *(("status", status.value) for status in self.status),
            *([("llm", self.llm)] if self.llm else []),
            *(("label", label) for label in self.labels),
            *([("text", self.text)] if self.text else []),
            *([("before", str(self.before))] if self.before is not None else []),
        ]
        return f"?{urlencode(pairs)}" if pairs else ""

    def asked(self) -> dict[str, Any]:
        """As the arguments of `Client.task_page`."""
        return {
            "status": self.status,
            "llm": self.llm or None,
            "label": self.labels,
            "text": self.text or None,
            "before": self.before,
            "limit": PAGE,
        }

    @property
    def is_empty(self) -> bool:
        """Whether all tasks are shown."""
        return not (self.status or self.llm or self.labels or self.text)
