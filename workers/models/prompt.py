"""The prompt: the task as one text, for the kinds of LLM that read a prompt."""

import json
from collections.abc import Mapping
from typing import Any

from workers.models.base import AnsweredQuestion, Dependency, Job


def render_prompt(job: Job) -> str:
    """Return the task, the inputs, the results of dependencies, the answers of people and the output schema.

    Each has a section. The prompt of a job with only a description is the description; a message comes with its
    conversation. Instructions are not part of the prompt. Texts are copied unchanged, never filled in as templates.
    """
    sections = [
        _inputs(job.inputs),
        _results(job.context),
        _answers(job.answers),
        _expected_output(job.output_schema),
    ]
    if job.message is not None and job.conversation:
        said = "\n".join(_tagged("message", it.content, sender=it.sender) for it in job.conversation)
        newest = _tagged("message_to_answer", job.description, sender=job.message.sender)
        return f"{_tagged('conversation', said)}\n\n{newest}"
    if not any(sections):
        return job.description
    return "\n\n".join([_tagged("task", job.description), *filter(None, sections)])


def _inputs(inputs: Any) -> str:
    if inputs is None:
        return ""
    if isinstance(inputs, Mapping):
        entries = [_tagged("input", _text(value), name=name) for name, value in inputs.items()]
        return _tagged("inputs", "\n".join(entries))
    return _tagged("inputs", _text(inputs))


def _results(context: tuple[Dependency, ...]) -> str:
    if not context:
        return ""
    results = [_tagged("result", _text(it.result), id=it.id, task=it.description, status=it.status) for it in context]
    return _tagged("results_to_build_on", "\n".join(results))


def _answers(answers: tuple[AnsweredQuestion, ...]) -> str:
    if not answers:
        return ""
    tagged = [_tagged("answer", it.answer, question=it.question) for it in answers]
    return _tagged("answers_of_people", "\n".join(tagged))


def _expected_output(schema: dict[str, Any] | None) -> str:
    if schema is None:
        return ""
    text = "Answer with nothing but JSON that satisfies this JSON Schema:\n" + _text(schema)
    return _tagged("expected_output", text)


def _tagged(tag: str, content: str, **attributes: str) -> str:
    shown = "".join(f" {name}={json.dumps(value, ensure_ascii=False)}" for name, value in attributes.items())
    return f"<{tag}{shown}>\n{content}\n</{tag}>"


def _text(value: Any) -> str:
    """Return a string unchanged, so that its lines stay lines; another value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
