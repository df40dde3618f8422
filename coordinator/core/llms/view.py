"""The view of an LLM for people and programs."""

from collections.abc import Mapping
from typing import Any

from broker.mappings import without_none
from broker.timestamps import Instant, to_iso
from coordinator.core.health.view import health_view, why_not
from coordinator.core.llms.llm import LLM
from coordinator.core.llms.properties import Properties


def llm_view(llm: LLM, tasks: Mapping[str, bool], now: Instant) -> dict[str, Any]:
    """Return the LLM as JSON-able data: the fields of views.LLMView. `tasks` are its tasks, and whether parked."""
    found = {skill: round(quality.factor(now), 3) for skill, quality in llm.learned.quality.items()}
    by_hand = {
        "slots_limit": llm.slots_limit,
        "skills_given": None if llm.skills_given is None else dict(llm.skills_given),
    }
    return {
        "name": llm.name,
        "state": llm.state,
        "model": llm.model,
        "skills": dict(llm.skills),
        **({"quality": found} if found else {}),
        "slots": llm.slots,
        "paused": llm.paused,
        **without_none(by_hand),
        "in_hand": len(tasks) - (parked := sum(tasks.values())),
        "parked": parked,
        "instances": sorted(llm.instances),
        **({"by_instance": by_instance} if (by_instance := _by_instance(llm)) else {}),
        "description": llm.description,
        "labels": list(llm.labels),
        "last_seen": to_iso(llm.last_seen),
        "tasks": list(tasks),
        "limit": llm.limit,
        "health": health_view(llm, now),
        **without_none({"why_not": why_not(llm, now)}),
        **_properties_view(llm.properties),
    }


def _properties_view(properties: Properties) -> dict[str, Any]:
    shown = properties.plain()
    if properties.reserve:
        shown["spill"] = properties.spill
        if properties.spill == "busy":
            shown["spill_after"] = properties.spill_after
    else:
        shown.pop("spill", None)
        shown.pop("spill_after", None)
    shown.pop("limit", None)
    return shown


def _by_instance(llm: LLM) -> list[dict[str, Any]]:
    """Return the profile of each instance, where they differ: the fields of views.InstanceView."""
    if not any(llm.others_than(instance_id) for instance_id in llm.instances):
        return []
    return [
        {
            "id": instance.id,
            "model": instance.offer.model,
            "skills": dict(instance.offer.skills),
            "labels": list(instance.offer.labels),
            "slots": instance.slots,
            "draining": instance.draining,
        }
        for instance in llm.instances.values()
        if instance.offer is not None
    ]
