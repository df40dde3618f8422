"""The result of a task for several LLMs, for people: what came out of it, and who said what on the way there."""

import json
from collections.abc import Iterator, Mapping
from textwrap import indent
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.protocol.views import TaskView

MAIN = ("result", "decision", "choice")


def is_joined(view: "TaskView") -> bool:
    """Whether the result of a task is made of those of several LLMs."""
    return isinstance(view.result, dict) and (view.reviewer is not None or view.mode in ("all", "vote", "relay"))


def sections(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Headings and what stands under them, what matters most first."""
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
        yield "Nothing from", "\n".join(_said(llm, why) for llm, why in failed.items())


def _ballot(ballot: Mapping[str, Any]) -> str:
    if "answer" in ballot:
        return _said(ballot["llm"], _text(ballot["answer"]))
    weight = "" if ballot.get("weight", 1) == 1 else f" (counts {ballot['weight']:g})"
    return _said(f"{ballot['llm']}{weight}: {ballot['choice']}", _text(ballot.get("reason") or ""))


def _round(number: int, it: Mapping[str, Any]) -> str:
    said = {True: "approved", False: "sent back", None: "no verdict"}[it.get("approved")]
    score = "" if it.get("score") is None else f" ({it['score']:g})"
    return _said(f"{number}. of {it['author']}, {said} by {it['reviewer']}{score}", it.get("remarks") or "")


def _said(who: str, text: str) -> str:
    """What somebody said after who it was; text of several lines below it, indented."""
    if "\n" in text.strip():
        return f"{who}:\n{indent(text.strip(), '  ')}"
    return f"{who}: {text.strip()}" if text.strip() else who


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=2)
