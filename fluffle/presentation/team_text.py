"""The result of a task for several LLMs as text: the outcome, and the contribution of each LLM."""

import json
from collections.abc import Iterator, Mapping
from textwrap import indent
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.protocol.views import TaskView

MAIN = ("result", "decision", "choice")


def is_joined(view: "TaskView") -> bool:
    """Return whether the result of a task combines the results of several LLMs."""
    return isinstance(view.result, dict) and (view.reviewer is not None or view.mode in ("all", "vote", "relay"))


def sections(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield headings with their texts, the most important first."""
    for llm, answer in result.get("results", {}).items():
        yield f"Result of {llm}", _text(answer)
    for name in MAIN:
        if name in result:
            by = result.get("judge") or result.get("decided_by")
            yield name.capitalize() + (f" by {by}" if by else ""), _text(result[name])
    if tally := result.get("tally"):
        yield "Votes", ", ".join(f"{choice}: {count:g}" for choice, count in tally.items())
    if ballots := result.get("ballots"):
        yield "Ballots", "\n".join(map(_ballot, ballots))
    if steps := result.get("steps"):
        yield "Steps", "\n".join(_said(step["llm"], _text(step.get("failed", step.get("result")))) for step in steps)
    if rounds := result.get("rounds"):
        yield "Rounds", "\n".join(_round(number, it) for number, it in enumerate(rounds, 1))
    if failed := result.get("failed"):
        yield "LLMs without a result", "\n".join(_said(llm, why) for llm, why in failed.items())


def _ballot(ballot: Mapping[str, Any]) -> str:
    if "answer" in ballot:
        return _said(ballot["llm"], _text(ballot["answer"]))
    weight = "" if ballot.get("weight", 1) == 1 else f" (counts {ballot['weight']:g})"
    return _said(f"{ballot['llm']}{weight}: {ballot['choice']}", _text(ballot.get("reason") or ""))


def _round(number: int, it: Mapping[str, Any]) -> str:
    verdict = {True: "approved", False: "sent back", None: "no verdict"}[it.get("approved")]
    score = "" if it.get("score") is None else f" ({it['score']:g})"
    return _said(f"{number}. of {it['author']}, {verdict} by {it['reviewer']}{score}", it.get("remarks") or "")


def _said(llm: str, text: str) -> str:
    """Return a name with its text; a text of several lines is indented below the name."""
    if "\n" in text.strip():
        return f"{llm}:\n{indent(text.strip(), '  ')}"
    return f"{llm}: {text.strip()}" if text.strip() else llm


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=2)
