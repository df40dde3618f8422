"""What is known of a model before its first request: its limit, its price, its context window, its abilities."""

import re
import socket

import pytest

from broker.protocol.primitives import TAG_PATTERN
from broker.protocol.worker_reports import Price
from workers.models.base import STALL_TIMEOUT_SECONDS
from workers.models.factory import build_llm
from workers.models.protocols import Described, Properties

KEY = "sk-a-secret-key-of-mine"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.delenv("OLLAMA_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def known(
    model: str, base_url: str | None = None, *fallback: str, prices: dict[str, Price] | None = None
) -> Properties:
    llm = build_llm(
        model=model,
        base_url=base_url,
        exec_command=None,
        handler=None,
        stall_timeout=STALL_TIMEOUT_SECONDS,
        fallback=fallback,
        prices=prices,
    )
    assert isinstance(llm, Described)
    return llm.properties


# -- limits --------------------------------------------------------------------------------------------------------


def test_the_limit_of_a_model_names_its_provider_and_hides_its_key() -> None:
    limit = known("openai:gpt-6-luna").limit
    assert limit is not None
    assert re.fullmatch(r"openai-[0-9a-f]{8}", limit)
    assert re.search(TAG_PATTERN, limit)
    assert KEY not in limit


def test_models_of_one_account_share_a_limit() -> None:
    assert known("openai:gpt-6-luna").limit == known("openai-chat:gpt-5").limit


def test_another_key_provider_or_server_has_another_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [
        known("openai:gpt-6-luna").limit,
        known("anthropic:claude-haiku-5-5").limit,
        known("openai:x", "https://one.example/v1").limit,
        known("openai:x", "https://two.example/v1").limit,
    ]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    limits += [known("openai:gpt-6-luna").limit, known("openai:x", "https://one.example/v1").limit]
    assert len(set(limits)) == len(limits)


def test_a_server_at_localhost_is_another_one_on_each_host(monkeypatch: pytest.MonkeyPatch) -> None:
    here, shared = known("ollama:llama3.2").limit, known("ollama:llama3.2", "http://gpu:11434/v1").limit
    assert known("ollama:llama3.2", "http://127.0.0.1:11434/v1/").limit == here
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert known("ollama:llama3.2").limit != here
    assert known("ollama:llama3.2", "http://gpu:11434/v1").limit == shared


# -- prices --------------------------------------------------------------------------------------------------------


def test_a_model_of_a_provider_has_its_list_price_and_its_context_window() -> None:
    properties = known("openai:gpt-6-luna")
    assert properties.price is not None
    assert 0 < properties.price.input < properties.price.output
    assert properties.context_window is not None
    assert properties.context_window > 100_000
    assert properties.abilities == ["pictures", "schema", "tools"]


@pytest.mark.parametrize(
    ("model", "base_url"),
    [
        ("ada", "http://127.0.0.1:8080/v1"),
        ("openai:ada", "http://127.0.0.1:8080/v1"),
        ("openai:gpt-6-luna", "http://gpu:8080/v1"),
        ("openai:gpt-6-luna", "http://192.168.1.7:8080/v1"),
        ("gpt-6-luna", "https://models.example.com/v1"),
        ("ollama:llama3.2", None),
        ("vllm:Qwen/Qwen3-8B", "http://gpu:8000/v1"),
    ],
)
def test_a_model_of_ones_own_server_has_no_price_whatever_its_name(model: str, base_url: str | None) -> None:
    properties = known(model, base_url)
    assert (properties.price, properties.context_window, properties.abilities) == (None, None, None)


def test_a_model_that_is_named_as_one_of_openai_behind_a_public_gateway_has_its_price() -> None:
    assert known("openai:gpt-6-luna", "https://gateway.example.com/v1").price == known("openai:gpt-6-luna").price


def test_a_given_price_counts_more_than_the_list() -> None:
    mine = Price(input=7.0, output=8.0)
    assert known("openai:gpt-6-luna", prices={"": mine}).price == mine
    assert known("openai:gpt-6-luna", prices={"openai:gpt-6-luna": mine}).price == mine


def test_the_price_of_several_models_is_the_highest_and_unknown_if_one_is() -> None:
    mine = Price(input=700.0, output=800.0)
    dear = known("openai:gpt-6-luna", None, "ollama:llama3.2", prices={"ollama:llama3.2": mine}).price
    assert dear is not None
    assert (dear.input, dear.output) == (700.0, 800.0)
    assert known("openai:gpt-6-luna", None, "ollama:llama3.2").price is None


def test_the_demo_model_is_free() -> None:
    assert known("demo") == Properties(price=Price(input=0.0, output=0.0))
