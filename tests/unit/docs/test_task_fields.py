"""Each field of a task is in all places that have fields of tasks, or in the list of fields left out, with a reason."""

import pytest

from broker.protocol.assignments import Assignment
from broker.protocol.task_requests import Submission
from broker.protocol.views import TaskView
from fluffle.cli.task.submit import submit
from fluffle.client.kwargs import TaskFields

FIELDS = Submission.model_fields.keys()

PLACES = {
    "TaskFields in fluffle/client/kwargs.py": TaskFields.__annotations__.keys(),
    "the options of fluffle/cli/task/submit.py": {parameter.name for parameter in submit.params},
    "TaskView in broker/protocol/views.py": TaskView.model_fields.keys(),
    "Assignment in broker/protocol/assignments.py": Assignment.model_fields.keys(),
}

LEFT_OUT = {
    "TaskFields in fluffle/client/kwargs.py": {
        "description",  # a positional argument
        "answers",  # the client needs all answers
    },
    "the options of fluffle/cli/task/submit.py": {
        "id",  # --id is the parameter task_id
        "vote",  # --choice, --judge, --quorum and --weights
        "answers",  # the program uses the client
        "parent_id",
        "conversation_id",  # only LLMs submit parts and tasks of conversations
    },
    "TaskView in broker/protocol/views.py": {
        "answers",
        "force",
        "on_dependency_failure",  # instructions to the coordinator, of no use to a reader
    },
    "Assignment in broker/protocol/assignments.py": {
        "id",  # it is task_id there
        "assignee",
        "assignees",
        "excluded",
        "mode",
        "vote",
        "reviewer",
        "max_rounds",
        "priority",
        "due",
        "not_before",
        "depends_on",
        "on_dependency_failure",
        "max_attempts",
        "force",
        "needs",  # how the task is assigned is of no use to the LLM
    },
}


@pytest.mark.parametrize("place", PLACES)
def test_a_field_of_a_task_is_in_every_place_or_left_out_on_purpose(place: str) -> None:
    missing = sorted(FIELDS - PLACES[place] - LEFT_OUT[place])
    assert missing == [], f"add {missing} to {place}, or to LEFT_OUT with the reason"
