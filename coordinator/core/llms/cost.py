"""What a task is expected to cost at an LLM."""

from coordinator.core.llms.cost_estimates import in_usd, is_free
from coordinator.core.llms.duration_estimates import BASE_LENGTH, tokens
from coordinator.core.llms.llm import LLM
from coordinator.core.tasks.task import Task

NANOS_PER_TOKEN = 1_000  # nanodollars of a token, for each US dollar that a million tokens cost


def expected_cost(llm: LLM, task: Task) -> int | None:
    """Return what the task is expected to cost there in nanodollars; None if nothing is known.

    That is the mean of what runs have cost there, else the price with a usual answer.
    """
    price, learned = llm.properties.price, llm.learned.costs.nanos
    if is_free(price):
        return 0
    if learned.runs:
        return round(task.size * learned.mean)
    if price is None:
        return None
    read, written = tokens(task.size - BASE_LENGTH), tokens(BASE_LENGTH)
    return round((read * price.input + written * price.output) * NANOS_PER_TOKEN)


def in_dollars(nanos: int | None) -> str:
    """Return an expected cost as text."""
    return "price unknown" if nanos is None else f"${in_usd(nanos):.4f} expected"
