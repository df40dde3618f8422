"""A scripted model server, and LLMs that call it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.openai_server import OpenAIServer, Reply
from workers.models.base import Job, ModelError
from workers.models.factory import build_llm
from workers.models.protocols import LLM


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


def llm_at(url: str, model: str = "openai:qwen2.5", **options: Any) -> LLM:
    return build_llm(model=model, base_url=url, exec_command=None, handler=None, **{"stall_timeout": 60.0} | options)


async def failure_of(llm: LLM, **job: Any) -> ModelError:
    """Run a job that fails, and return why."""
    with pytest.raises(ModelError) as caught:
        await llm.run(Job("t-1", 1, "Say hello.", **job), lambda text: None)
    return caught.value


async def failure(server: OpenAIServer, *replies: Reply, **job: Any) -> ModelError:
    server.script(*replies)
    return await failure_of(llm_at(server.url), **job)
