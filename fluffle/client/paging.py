"""Lists that the coordinator tells page by page."""

from collections.abc import AsyncIterator

from broker.protocol.queries import LLMsQuery
from broker.protocol.views import LLMList, LLMView
from fluffle.client.conversion import read
from fluffle.client.requests import RequestClient


async def every_llm(request_client: RequestClient) -> AsyncIterator[LLMView]:
    """Every LLM that has ever reported, by name; page by page. Raises NoAnswer."""
    after: str | None = None
    while True:
        page = read(LLMList, await request_client.ask(LLMsQuery(after=after)))
        for view in page.llms:
            yield view
        if (after := page.next) is None:
            return
