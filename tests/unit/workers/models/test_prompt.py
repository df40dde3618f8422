"""What an LLM reads: the task, its inputs, the results it builds on and the output that is expected."""

from broker.protocol.assignments import Dependency
from broker.protocol.status import Status
from workers.models.base import Job
from workers.models.prompt import render_prompt


def test_a_task_without_anything_else_is_its_description() -> None:
    assert render_prompt(Job("t-1", 1, "Say hello.")) == "Say hello."


def test_every_part_of_a_job_has_its_section_in_order() -> None:
    job = Job(
        "t-3",
        1,
        "Compare the reports.",
        inputs={"text": "line one\nline two", "limit": 3},
        context=(
            Dependency(id="t-1", description="Read A", status=Status.COMPLETED, result="A is\nfine"),
            Dependency(id="t-2", description='Read "B"', status=Status.FAILED, result={"b": [1]}),
        ),
        output_schema={"type": "object"},
    )
    assert render_prompt(job) == (
        "<task>\nCompare the reports.\n</task>\n"
        "\n"
        "<inputs>\n"
        '<input name="text">\nline one\nline two\n</input>\n'
        '<input name="limit">\n3\n</input>\n'
        "</inputs>\n"
        "\n"
        "<results_to_build_on>\n"
        '<result id="t-1" task="Read A" status="completed">\nA is\nfine\n</result>\n'
        '<result id="t-2" task="Read \\"B\\"" status="failed">\n{\n  "b": [\n    1\n  ]\n}\n</result>\n'
        "</results_to_build_on>\n"
        "\n"
        "<expected_output>\n"
        "Answer with nothing but JSON that satisfies this JSON Schema:\n"
        '{\n  "type": "object"\n}\n'
        "</expected_output>"
    )


def test_inputs_of_any_shape_are_shown() -> None:
    assert "<inputs>\njust text\n</inputs>" in render_prompt(Job("t", 1, "d", inputs="just text"))
    assert "<inputs>\n[\n  1,\n  2\n]\n</inputs>" in render_prompt(Job("t", 1, "d", inputs=[1, 2]))
    assert "<inputs>\nfalse\n</inputs>" in render_prompt(Job("t", 1, "d", inputs=False))


def test_text_is_copied_and_never_expanded() -> None:
    text = "{job.task_id} {{x}} %s $HOME `id` ünïcode </task>"
    prompt = render_prompt(Job("t", 1, text, inputs={"text": text}))
    assert prompt.count(text) == 2


def test_instructions_are_no_part_of_the_prompt() -> None:
    assert "brief" not in render_prompt(Job("t", 1, "d", inputs="x", instructions="be brief"))
