"""Whether a task may begin: its next attempt reserves what it is expected to use in each of its accounts."""

from broker.errors import Problem
from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import Failure
from broker.timestamps import Instant
from coordinator.core.budgets.account import PLENTY, Account, Hold
from coordinator.core.budgets.budget import Figures
from coordinator.core.llms.cost_estimates import in_usd
from coordinator.core.llms.llm import LLM
from coordinator.core.state import CoreState
from coordinator.core.tasks import transitions
from coordinator.core.tasks.task import COORDINATOR, OpenQuestion, Task, lane_of, meets

RAISE, STOP = "raise", "stop"
_NAMED = 5  # LLMs, in a refusal
_QUESTION = "budget:"


def admit(state: CoreState, task: Task, llm: LLM, now: Instant) -> bool:
    """Reserve what the next attempt at a pending task needs at an LLM; return whether enough is left.

    Without enough, the task waits for its budget, asks a person or fails, as the budget says. The task has left its
    lane.
    """
    ledger = state.budgets
    accounts, need = ledger.request(task, llm, now)
    if not accounts:
        return True
    short = next((account for account in accounts if not account.fits(need)), None)
    if short is None:
        ledger.reserve(task, accounts, _within(need, accounts))
        return True
    if short.refused:
        _fail(state, task, short, now)
    elif short.on_empty == "wait" or short.asked is not None or _will_fit(short, need):
        _hold(state, task, short, need, now)
    elif short.on_empty == "ask":
        _ask(state, task, short, now)
    else:
        _fail(state, task, short, now)
    return False


def why_unpriced(state: CoreState, spec: Submission) -> Problem | None:
    """Return why a task with a budget in US dollars can never run: nobody knows what its LLMs cost."""
    if spec.budget is None or spec.budget.usd is None:
        return None
    demands = lane_of(spec).split()
    able = [llm for llm in state.llms.values() if meets(llm.offers(), demands)]
    if not able or any(llm.properties.price is not None for llm in able):
        return None
    names = ", ".join(sorted(llm.name for llm in able)[:_NAMED])
    one = next((llm.model for llm in able if llm.model), "MODEL")
    text = f"nobody knows what {names} cost{'s' if len(able) == 1 else ''}: set the price in US dollars per million"
    return Problem("budget.usd", f'{text} tokens, in [prices."{one}"] of fluffle.toml or in the hello of the worker')


def is_about_budget(question: OpenQuestion) -> bool:
    """Whether a question is one of the coordinator's about a budget."""
    return question.id.startswith(_QUESTION)


def exceeded(account: Account) -> Failure:
    """Return the error of a task for which too little is left."""
    message = f"too little is left of {account}: {account.spent_in_words()} used"
    return Failure(type="budget_exceeded", message=message, retryable=False)


def _will_fit(account: Account, need: Figures) -> bool:
    """Whether the task may begin once the running attempts have given back what they do not use."""
    if not account.active:
        return False
    unspent, limits = account.unspent, account.limits
    if unspent.runs is not None and unspent.runs <= len(account.holds):
        return False
    for amount, rest, limit in zip(need[:2], unspent[:2], limits[:2], strict=True):
        if rest is not None and limit is not None and amount != 0:
            enough = amount is not None and amount <= rest
            if rest <= 0 or not (enough or rest >= limit * PLENTY):
                return False
    return True


def _within(need: Figures, accounts: list[Account]) -> Hold:
    """Return what to reserve: what is needed, or what is left."""
    nanos = [max(0, account.left.nanos) for account in accounts if account.left.nanos is not None]
    tokens = [max(0, account.left.tokens) for account in accounts if account.left.tokens is not None]
    return Hold(min([need.nanos or 0, *nanos]), min([need.tokens or 0, *tokens]))


def _hold(state: CoreState, task: Task, account: Account, need: Figures, now: Instant) -> None:
    """Let a task wait until more is left."""
    amount = _in_words(need, account)
    why = f"waits for {account}{account.until_in_words()}: {account.spent_in_words()} used, {amount} needed"
    what = f"waits for {account}{account.until_in_words()}"
    transitions.hold(task, account.label, account.until, why)
    if account.until is not None:
        state.next_wake = min(state.next_wake, account.until)
    if not task.history or task.history[-1].what != what:
        task.note(now, COORDINATOR, what)
    state.budgets.wait(account)
    state.touch(task)
    state.announce(task, now)


def _ask(state: CoreState, task: Task, account: Account, now: Instant) -> None:
    """Ask a person whether to raise the budget; all tasks of the account wait for the answer."""
    text = f"Too little is left of {account}: {account.spent_in_words()} used. Raise it by as much once more, or stop?"
    question = OpenQuestion(f"{_QUESTION}{len(task.questions) + 1}", text, (RAISE, STOP), now)
    transitions.ask(task, question, now)
    task.waits_for, task.wake_at = account.label, account.until
    if account.until is not None:
        state.next_wake = min(state.next_wake, account.until)
    task.note(now, COORDINATOR, f"asked: {text}")
    state.budgets.ask(account, task.id)
    state.budgets.wait(account)
    state.touch(task)
    state.announce(task, now)


def _fail(state: CoreState, task: Task, account: Account, now: Instant) -> None:
    state.fail(task, exceeded(account), now)


def _in_words(need: Figures, account: Account) -> str:
    parts = []
    if account.limits.nanos is not None and need.nanos is not None:
        parts.append(f"${in_usd(need.nanos):.2g}")
    if account.limits.tokens is not None and need.tokens is not None:
        parts.append(f"{need.tokens:,} tokens")
    return " and ".join(parts) or "a run"
