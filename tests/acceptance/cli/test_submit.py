"""`fluffle task submit`: the task, its fields and its errors."""

import json
import re
from pathlib import Path

import pytest

from broker.ids import uuid7
from tests.support.shell import Shell


def test_submit_prints_only_the_id(shell: Shell) -> None:
    printed = shell("task", "submit", "anything", "--skills", "obey")
    assert re.fullmatch(r"[0-9a-f-]{36}\n", printed)


def test_submit_and_wait_prints_the_result(shell: Shell) -> None:
    assert shell("task", "submit", "anything", "-k", "obey", "--wait") == "anything\n"
    inputs = json.dumps({"answer": {"rabbits": ["é"]}})
    assert shell("task", "submit", "x", "--input", inputs, "-k", "obey", "--wait") == '{"rabbits": ["é"]}\n'


def test_every_option_of_submit_reaches_the_task(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "string"}')
    first = shell("task", "submit", "first", "-k", "obey").strip()
    own = f"own-{uuid7()}"
    options = {
        "--id": own,
        "--skills": "obey, summarise",
        "--assignee": "obi",
        "--priority": "7",
        "--due": "2030-01-01T00:00Z",
        "--not-before": "2020-01-01T00:00Z",
        "--depends-on": first,
        "--on-dependency-failure": "run",
        "--timeout": "5m",
        "--max-attempts": "2",
        "--output-schema": str(tmp_path / "schema.json"),
        "--label": "one,two",
        "--metadata": "key=value=x",
    }
    arguments = [argument for pair in options.items() for argument in pair]
    view = json.loads(shell("task", "submit", "second", *arguments, "--wait", "--json"))
    expected = {
        "id": own,
        "status": "completed",
        "skills": ["obey", "summarise"],
        "assignee": "obi",
        "priority": 7,
        "depends_on": [first],
        "timeout": 300,
        "max_attempts": 2,
        "output_schema": {"type": "string"},
        "labels": ["one", "two"],
        "metadata": {"key": "value=x"},
    }
    assert {key: view[key] for key in expected} == expected
    assert view["due"].startswith("2030-01-01T00:00:00")


def test_the_description_comes_from_a_file_a_dash_or_a_pipe(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "what.txt").write_text("from a file\n")
    assert shell("task", "submit", "--file", str(tmp_path / "what.txt"), "-k", "obey", "-w") == "from a file\n"
    assert shell("task", "submit", "-", "-k", "obey", "-w", given="from a dash\n") == "from a dash\n"
    assert shell("task", "submit", "-k", "obey", "-w", given="from a pipe\n") == "from a pipe\n"


def test_the_text_of_a_file_becomes_inputs(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("Täglich.\n")
    view = json.loads(
        shell("task", "submit", "x", "--input-file", str(tmp_path / "report.txt"), "-k", "obey", "--json")
    )
    assert view["inputs"] == {"text": "Täglich.\n"}
    view = json.loads(shell("task", "submit", "x", "--input-file", "-", "-k", "obey", "--json", given="piped"))
    assert view["inputs"] == {"text": "piped"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["task", "submit"], "No task given"),
        (["task", "submit", "x", "--priority", "10"], "Invalid value for '--priority'"),
        (["task", "submit", "x", "--due", "soon"], "'soon' must be a time"),
        (["task", "submit", "x", "--input", "{"], "not JSON"),
        (["task", "submit", "x", "--metadata", "novalue"], "'novalue' must be KEY=VALUE"),
        (["task", "submit", "x", "--json-lines", "-"], "give descriptions and IDs in the lines"),
        (["task", "submit", "x", "--input-file", "/nowhere"], "does not exist"),
        (["task", "wait"], "Give the IDs of tasks, or --label."),
        (["rejected", "drop"], "Give the IDs of messages, or --all."),
    ],
)
def test_wrong_usage_is_an_error_before_anything_happens(shell: Shell, arguments: list[str], said: str) -> None:
    assert said in shell.error(*arguments, code=2)


def test_an_invalid_schema_is_an_error_before_an_llm_tries(shell: Shell) -> None:
    said = shell.error("task", "submit", "x", "--output-schema", "-", given='{"type": "strong"}', code=2)
    assert said.startswith("-: output_schema is not a JSON Schema: $.type: 'strong' is not valid")


def test_an_invalid_field_is_named(shell: Shell) -> None:
    assert shell.error("task", "submit", "x", "--label", "Upper").startswith(
        "labels.0: must be 1-63 characters: a-z, 0-9 or "
    )
    assert shell.error("task", "submit", "x", "--id", "with space").startswith("id: must be 1-64 characters: ")


LATIN_1 = b"caf\xe9".decode(errors="surrogateescape")  # an argument that is not UTF-8, as Python gets it


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (("task", "submit", LATIN_1), "description: "),
        (("task", "submit", "x", "-m", f"k={LATIN_1}", "-n"), "metadata: "),
        (("task", "submit", "x", "--input", '{"a": "\\ud800"}', "-n"), "inputs: "),
        (("task", "update", "t-1", "-m", f"k={LATIN_1}"), "t-1: metadata: "),
        (("task", "retry", "t-1", "-m", f"k={LATIN_1}"), "t-1: changes.metadata: "),
        (("task", "cancel", "t-1", "--reason", LATIN_1), "t-1: reason: "),
        (("task", "list", "--text", LATIN_1), "text: "),
        (("message", "send", "obi", LATIN_1), "content: "),
        (("report", LATIN_1), "name: "),
    ],
)
def test_text_that_is_not_utf8_is_refused_with_its_field(shell: Shell, command: tuple[str, ...], path: str) -> None:
    assert shell.error(*command).startswith(f"{path}cannot be encoded as UTF-8")


def test_a_failed_task_has_a_separate_exit_code(shell: Shell) -> None:
    arguments = ("task", "submit", "x", "--input", '{"fail": "no ink"}', "-k", "obey", "--wait")
    assert re.search(r"task \S+ failed: broken: no ink", shell.error(*arguments, code=3))
    assert json.loads(shell(*arguments, "--json", code=3))["error"]["message"] == "no ink"
