"""The health of LLMs, their properties and rate limits: what is stored is loaded again unchanged."""

from broker.protocol.worker_reports import Failure, Price, Usage
from broker.timestamps import Instant, seconds
from coordinator.core.limits.rate_limit import RateLimit
from coordinator.core.llms.llm import LLM, Instance
from coordinator.core.llms.properties import InstanceProfile, Properties
from coordinator.core.state import StateChanges
from coordinator.storage.store import Store
from tests.support.core_driver import T0
from tests.support.stored_tasks import commit

PRICED = Properties(
    limit="openai-1f3a",
    price=Price(input=1.25, output=10.0, cached_input=0.125),
    reserve=True,
    spill="busy",
    spill_after=30.0,
    context_window=128_000,
    abilities=("schema", "tools"),
)
FAILURE = Failure(type="authentication", message="wrong key of ada: 日本 \x00")


def a_sick_llm() -> LLM:
    profile = InstanceProfile("openai:gpt", {}, [], "", PRICED)
    llm = LLM("ada", model="openai:gpt", labels=[], told_properties=PRICED)
    llm.instances = {"i1": Instance("i1", 2, T0, offer=profile), "i2": Instance("i2", 1, T0, offer=profile)}
    llm.give_properties({"local": True, "spill_after": 5.0, "abilities": ("pictures",)})
    llm.instances["i1"].breaker.failed(FAILURE, "t", T0)
    llm.instances["i1"].told_slots = 0
    llm.health.failed(FAILURE, Usage(input_tokens=7, cost_usd=0.25), T0)
    llm.health.succeeded(Usage(output_tokens=9), seconds(2), Instant(T0 + 1))
    return llm


def test_a_sick_llm_is_loaded_with_its_breakers_its_figures_and_its_properties(store: Store) -> None:
    llm = a_sick_llm()
    commit(store, StateChanges(llms={"ada": llm}))
    [again] = store.llms()
    assert again.properties == llm.properties
    assert (again.told_properties, again.properties_given) == (PRICED, llm.properties_given)
    assert again.health.plain() == llm.health.plain()
    assert again.instances["i1"].breaker == llm.instances["i1"].breaker
    assert [(it.told_slots, it.offer) for it in again.instances.values()] == [
        (it.told_slots, it.offer) for it in llm.instances.values()
    ]


def test_a_rate_limit_is_loaded_as_it_was_without_its_runs(store: Store) -> None:
    limit = RateLimit("openai-1f3a", requests_per_minute=60, tokens_per_minute=90_000, concurrent=4)
    limit.begin("t", 5000, T0)
    limit.close(Failure(type="rate_limited"), 30, T0)
    commit(store, StateChanges(limits={limit.name: limit, "other": RateLimit("other", paused=True)}))
    again, other = sorted(store.limits(), key=lambda it: it.name)
    assert again.plain() == limit.plain()
    assert (again.runs, other.paused) == ({}, True)
    commit(store, StateChanges(limits={"other": RateLimit("other")}, forgotten_limits=["openai-1f3a"]))
    assert [(it.name, it.paused) for it in store.limits()] == [("other", False)]
