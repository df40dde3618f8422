"""Lists that the coordinator tells page by page."""

from collections.abc import AsyncIterator

from broker.views import LLMList, LLMsQuery, LLMView
from fluffle.correspondence import Correspondence
from fluffle.forms import read


async def every_llm(correspondence: Correspondence) -> AsyncIterator[LLMView]:
    """Every LLM that has ever reported, by name; page by page. Raises NoAnswer."""
    after: str | None = None
    while True:
        page = read(LLMList, await correspondence.ask(LLMsQuery(after=after)))
        for view in page.llms:
            yield view
        if (after := page.next) is None:
            return
