"""Requests about LLMs: pause, resume, drain, change slots or skills, forget."""

from itertools import islice

from broker.errors import Problem
from broker.timestamps import Instant
from coordinator.core.commands import AnswerRequest, SendDrain
from coordinator.core.events import ManageRequested, Sender
from coordinator.core.health.monitor import HealthMonitor
from coordinator.core.llms.llm import LLM, no_such_llm
from coordinator.core.llms.view import llm_view
from coordinator.core.state import CoreState

SETTABLE = frozenset({"local", "reserve", "spill", "spill_after", "context_window", "abilities"})
_TASKS_NAMED = 10  # of an LLM, in a refusal


class LLMControl:
    """Does what a request asks, or refuses the request with the reason."""

    def __init__(self, state: CoreState, health: HealthMonitor) -> None:
        self._state = state
        self._health = health

    def manage(self, event: ManageRequested, now: Instant) -> None:
        """Change the settings of an LLM, drain it, or forget it."""
        order, sender = event.order, event.sender
        llm = self._state.llms.get(order.llm)
        if llm is None:
            self._state.refuse(order.llm, sender, no_such_llm("llm", order.llm, self._state.llms, forceable=False))
            return
        if order.forget:
            self._forget(llm, sender, now)
            return
        before = llm.status
        given = order.model_fields_set
        if order.paused is not None:
            llm.paused = order.paused
            if not order.paused:
                self._health.resume(llm, now)
        if "slots" in given:
            llm.slots_limit = order.slots
        if "skills" in given:
            llm.give_skills(order.skills)
        if changed := {name: getattr(order, name) for name in SETTABLE & given}:
            if changed.get("abilities") is not None:
                changed["abilities"] = tuple(changed["abilities"])
            llm.give_properties(changed)
        if order.drain:
            for instance in llm.instances.values():
                instance.draining = True
                self._state.emit(SendDrain(llm.name, instance.id))
        self._state.limits.recount(llm)
        self._state.ready.llm_changed(llm)
        self._state.changes.llms[llm.name] = llm
        self._state.announce_llm(llm, before, now)
        if sender.reply_to:
            view = llm_view(llm, llm.tasks(), now)
            self._state.emit(AnswerRequest("llm.accepted", sender.reply_to, sender.correlation_id, view))

    def _forget(self, llm: LLM, sender: Sender, now: Instant) -> None:
        if llm.instances:
            text = f"{llm.name} is {llm.state}: only an LLM that is offline can be forgotten"
            self._state.refuse(llm.name, sender, Problem("llm", text))
        elif tasks := llm.tasks():
            text = f"{llm.name} has tasks: {', '.join(islice(tasks, _TASKS_NAMED))}"
            self._state.refuse(llm.name, sender, Problem("llm", text))
        else:
            self._state.forget_llm(llm)
            if sender.reply_to:
                view = llm_view(llm, {}, now)
                self._state.emit(AnswerRequest("llm.accepted", sender.reply_to, sender.correlation_id, view))
