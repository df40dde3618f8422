"""Submissions: new tasks, and known ones that come again."""

from broker.errors import Problem
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.timestamps import Instant
from coordinator.core.budgets.admission import why_unpriced
from coordinator.core.events import Submitted
from coordinator.core.groups.validation import why_no_group
from coordinator.core.llms.llm import no_such_llm
from coordinator.core.llms.skill_match import Expertise
from coordinator.core.state import CoreState, final_answer
from coordinator.core.tasks.dependencies import closed_circle
from coordinator.core.tasks.entry import enter
from coordinator.core.tasks.lineage import ancestors, why_no_child
from coordinator.core.tasks.resubmission import differences
from coordinator.core.tasks.task import COORDINATOR, Task


class Submissions:
    """Accepts tasks, or refuses them with the reason."""

    def __init__(self, state: CoreState, *, expertise: Expertise | None = None) -> None:
        """With `expertise`, a task that names no LLM and no skills gets the skills that its text suggests."""
        self._state = state
        self._expertise = expertise

    def submitted(self, event: Submitted, now: Instant) -> None:
        """A task was submitted. The tasks that its submission names are loaded."""
        known = self._state.tasks.get(event.task_id)
        if known is not None:
            self._submitted_again(event, known)
        elif problem := self._problem(event):
            self._state.refuse(event.task_id, event.sender, problem, origin=event.origin)
        else:
            enter(self._state, self._new(event, now), now)

    def _problem(self, event: Submitted) -> Problem | None:
        spec = event.spec
        if circle := closed_circle(self._state, event):
            return Problem("depends_on", "a cycle: " + " -> ".join(circle))
        if spec.parent_id and (problem := why_no_child(spec, ancestors(spec, self._state.tasks))):
            return problem
        return (
            why_no_group(event.task_id, spec, self._state) or self._unknown_llm(spec) or why_unpriced(self._state, spec)
        )

    def _new(self, event: Submitted, now: Instant) -> Task:
        spec, sender = event.spec, event.sender
        suggested = self._suggested_skills(spec)
        task = Task(
            id=event.task_id,
            seq=self._state.next_seq,
            spec=spec.model_copy(update={"skills": suggested}) if suggested else spec,
            status=Status.BLOCKED,
            priority=event.priority,
            submitted_at=now,
            submitted_by=sender.user,
            reply_to=sender.reply_to,
            correlation_id=sender.correlation_id,
            trace=sender.trace,
        )
        if suggested:
            task.original = {"skills": []}
            task.note(now, COORDINATOR, f"skills suggested by the text: {', '.join(suggested)}")
        return task

    def _submitted_again(self, event: Submitted, known: Task) -> None:
        """Answer a submission with a known id by the known task, at the newest address, if both are the same."""
        spec, sender = event.spec, event.sender
        if different := differences(spec, event.priority, known):
            self._state.refuse(event.task_id, sender, *different, origin=event.origin)
            return
        if sender.reply_to:
            known.reply_to, known.correlation_id = sender.reply_to, sender.correlation_id
            self._state.touch(known)
        if spec.answers == "all":
            self._state.answer(known, "task.accepted", known=True)
        if known.status.is_final:
            self._state.answer(known, final_answer(known.status))

    def _unknown_llm(self, spec: Submission) -> Problem | None:
        """Return what is wrong when the task names an LLM that never connected."""
        if spec.force or not (spec.assignee or spec.is_group or spec.assignees):
            return None
        named = {"assignee": spec.assignee, "reviewer": spec.reviewer, "vote.judge": spec.vote and spec.vote.judge}
        named |= {f"assignees.{place}": name for place, name in enumerate(spec.assignees)}
        unknown = [(path, name) for path, name in named.items() if name and name not in self._state.llms]
        return no_such_llm(*unknown[0], self._state.llms) if unknown else None

    def _suggested_skills(self, spec: Submission) -> list[str]:
        if self._expertise is None or spec.skills or spec.assignee or spec.assignees:
            return []
        return self._expertise.skills_for(spec.description, self._state.llms.values())
