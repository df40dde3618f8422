"""Plans: read from files, filled in, and told precisely what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest

from broker.errors import ConfigurationError
from fluffle.plans import plan as plans
from fluffle.plans.plan import Plan, PlannedTask, load, planned
from tests.support.processes import ROOT


def plan(folder: Path, text: str, name: str = "plan.toml") -> Plan:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load(path)


def tasks(folder: Path, text: str, **variables: Any) -> dict[str, PlannedTask]:
    return {task.name: task for task in plan(folder, text).tasks("run", variables)}


def wrong(folder: Path, text: str, name: str = "plan.toml", **variables: Any) -> str:
    """What is wrong with a plan, without the name of its file."""
    with pytest.raises(ConfigurationError) as caught:
        plan(folder, text, name).tasks("run", variables)
    told = str(caught.value)
    assert told.startswith(f"{folder / name}: ")
    return told.removeprefix(f"{folder / name}: ")


MAP = """
[variables]
topic = "rabbits"
limit = 5

[task.merge]
depends_on = ["read"]
description = "Merge {{ topic }}"
reviewer = "cleo"

[task.read]
for_each = "*.txt"
description = "Read {{ item.name }} about {{ topic }}"
inputs = { text = "{{ item.text }}", most = "{{ limit }}", nested = [{ stem = "{{ item.stem }}" }] }
timeout = 60
"""


def test_a_task_for_each_file_and_one_for_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("two {{ topic }}")
    (tmp_path / "a.txt").write_text("one")
    made = tasks(tmp_path, MAP, topic="hares")
    assert list(made) == ["read-1", "read-2", "merge"]
    second = made["read-2"].submission
    assert (second.id, second.conversation_id, second.timeout) == ("run-read-2", "run", 60)
    assert second.description == "Read b.txt about hares"
    assert second.inputs == {"text": "two {{ topic }}", "most": 5, "nested": [{"stem": "b"}]}
    assert made["merge"].submission.depends_on == ["run-read-1", "run-read-2"]
    assert made["merge"].depends_on == ("read-1", "read-2")
    assert made["merge"].submission.reviewer == "cleo"


def test_a_task_for_each_item_of_a_list(tmp_path: Path) -> None:
    text = '[task.ask]\nfor_each = ["ada", "{{ other }}"]\nassignee = "{{ item }}"\ndescription = "x"'
    made = tasks(tmp_path, text, other="bob")
    assert [task.submission.assignee for task in made.values()] == ["ada", "bob"]


def test_a_plan_in_yaml_gives_the_same_tasks(tmp_path: Path) -> None:
    text = "task:\n  one:\n    description: About {{ topic }}\n    due: 2026-12-01T09:00:00Z\n    labels: [x]\n"
    [task] = plan(tmp_path, text, "plan.yaml").tasks("run", {"topic": "rabbits"})
    assert (task.submission.description, task.submission.labels) == ("About rabbits", ["x"])
    assert task.submission.due is not None
    assert task.submission.due.year == 2026


def test_a_file_may_be_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("dig")
    made = tasks(tmp_path, '[task.one]\ndescription = "x"\ninputs = "{{ read(\'note.txt\') }}"')
    assert made["one"].submission.inputs == "dig"


def test_defaults_are_for_tasks_that_do_not_say_otherwise(tmp_path: Path) -> None:
    text = '[task.a]\ndescription = "a"\npriority = 1\n[task.b]\ndescription = "b"'
    made = plan(tmp_path, text).tasks("run", {}, {"priority": 7, "labels": ["nightly"]})
    assert [(it.submission.priority, it.submission.labels) for it in made] == [(1, ["nightly"]), (7, ["nightly"])]


def test_text_of_others_is_never_a_template(tmp_path: Path) -> None:
    made = tasks(tmp_path, '[task.one]\ndescription = "{{ given }}"', given="{{ 7 * 7 }} {% raise %}")
    assert made["one"].submission.description == "{{ 7 * 7 }} {% raise %}"


@pytest.mark.parametrize("suffix", [".toml", ".yaml"])
def test_a_byte_order_mark_before_a_plan_is_passed_over(tmp_path: Path, suffix: str) -> None:
    text = {".toml": '[task.one]\ndescription = "x"', ".yaml": "task: {one: {description: x}}"}[suffix]
    (tmp_path / f"plan{suffix}").write_text(f"\ufeff{text}", encoding="utf-8")
    [task] = load(tmp_path / f"plan{suffix}").tasks("run")
    assert task.submission.description == "x"


ONE = '[task.one]\ndescription = "About {{ topic }}"\n'


@pytest.mark.parametrize(
    ("text", "variables", "told"),
    [
        (ONE, {}, "task one: description: 'topic' is undefined"),
        ("[task.one]\ndescription = '{{ tpoic }}'\n[variables]\ntopic = 'x'", {},
         "task one: description: 'tpoic' is undefined; did you mean topic?"),
        ("[task.one]\ndescription = '{{ 7 | uper }}'", {}, "task one: description: No filter named 'uper'"),
        ("[task.one]\ndescription = '{% if 7 is od %}x{% endif %}'", {}, "task one: description: No test named 'od'"),
        ("[task.one]\ndescription = '{{ read(\"nope\") }}'", {}, "task one: description: cannot read "),
        ("[task.one]\ndescription = '{{ a.b }}'", {"a": {}}, "one: description: 'dict object' has no attribute 'b'"),
        (ONE, {"topic": "x", "topik": "y"}, "the plan has no variable topik; did you mean topic?"),
        ("[task.one]\ndescription = 'x'", {"y": "z"}, "the plan has no variable y; it has none"),
        ("[task.one]\ndescription = '{{ x'", {"x": 1}, "task one: description: unexpected end of template"),
        ("[task.one]\ndescription = ''", {}, "task one: description: is empty"),
        ("[task.one]\nskills = []", {}, "task one: description: Field required"),
        ("[task.one]\ndescription = 'x'\nskils = []", {}, "task one: unknown field skils; did you mean skills?"),
        ("[task.one]\ndescription = 'x'\nid = 'y'", {}, "task one: unknown field id"),
        ("[task.One]\ndescription = 'x'", {}, "the name 'One' must be 1-24 characters: a-z, 0-9 or '-'"),
        ("[tasks.one]\ndescription = 'x'", {}, "task: Field required; tasks: unknown field"),
        ("task = {}", {}, "the plan has no task"),
        ("[task.one]\ndescription = 'x'\ndepends_on = ['tow']\n[task.two]\ndescription = 'y'", {},
         "task one: depends_on: the plan has no task tow; did you mean two?"),
        ("[task.a]\ndescription='x'\ndepends_on=['b']\n[task.b]\ndescription='y'\ndepends_on=['a']", {},
         "the tasks depend on each other in a cycle: "),
        ("[task.one]\ndescription = 'x'\nfor_each = '*.nothing'", {},
         "task one: for_each: no file matches '*.nothing'"),
        ("[task.one]\ndescription = 'x'\nfor_each = '{{ y }}'", {"y": "*.no"}, "one: for_each: no file matches '*.no'"),
        ("[task.one]\ndescription = 'x'\nfor_each = '/etc/*'", {}, "task one: for_each: '/etc/*': "),
        ("[task.one]\ndescription = 'x'\nfor_each = 7", {},
         "task one: for_each: must be a pattern of file names or a list, got 7"),
        ("[task.one]\ndescription = 'x'\nmode = 'all'", {}, "task one: mode: all needs assignees"),
        ("description = ", {}, "Invalid value (at end of document)"),
    ],
)  # fmt: skip
def test_an_error_names_the_file_the_task_and_the_field(
    tmp_path: Path, text: str, variables: dict[str, Any], told: str
) -> None:
    assert told in wrong(tmp_path, text, **variables)


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ read.__globals__ }}",
        "{% for a in range(10000000) %}x{% endfor %}",
        "{{ read('/no/such/file') }}",
    ],
)
def test_a_template_has_no_access_to_python_or_to_other_folders(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError):
        plan(tmp_path, f'[task.one]\ndescription = "{text}"').tasks("run")


def test_a_missing_file_and_a_binary_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        load(tmp_path / "nothing.toml")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"binary\.txt is not UTF-8 text"):
        tasks(tmp_path, '[task.one]\nfor_each = "*.txt"\ndescription = "x"')


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*/*.toml")), ids=lambda path: path.name)
def test_the_plans_of_the_examples_are_valid(path: Path) -> None:
    if path.name != "fluffle.toml":
        assert load(path).tasks("run")


ALIASES = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]" for n in range(1, 9))])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task = " + "[" * 100_000, "the values are nested too deeply"),
        ("task = 1  # " + "x" * 1_048_576, "is larger than 1,048,576 bytes"),
        (
            "[task.one]\ndescription = \"{{ 'a' * 10 ** 10 }}\"",
            "task one: description: the template needs too much memory",
        ),
        (
            "[task.one]\ndescription = \"{{ 'a' | center(10 ** 10) }}\"",
            "task one: description: the template needs too much memory",
        ),
        ("[task.one]\ndescription = \"{{ [1] | map(attribute='__class__') | list }}\"", "task one: "),
        ("[task.one]\ndescription = \"{{ '' | xmlattr }}\"", "task one: description: 'str' object has no attribute"),
        ("[task.one]\ndescription = \"{{ read('/dev/zero') }}\"", "task one: description: /dev/zero is not a file"),
        ('[task.one]\ndescription = "{{ ' + "(" * 5_000 + ' }}"', "task one: description: "),
        ("[task.one]\nfor_each = ['x']\ndescription = '{{ item.nothing() }}'", "task one: description: "),
        ("[task.one]\ndescription = '{{ read }}'", "task one: "),
    ],
    ids=lambda value: value[:40],
)
async def test_an_error_of_a_plan_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        await planned(tmp_path / "plan.toml", "run")
    assert told in str(caught.value)
    assert str(tmp_path / "plan.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task: " + "[" * 5_000, "the values are nested too deeply"),
        (f"{ALIASES}\ntask: {{}}", "the plan has more than 100,000 values"),
        ("task: &a {one: *a}", "the plan has more than 100,000 values"),
        ("task: [", "while parsing a flow node"),
    ],
    ids=lambda value: value[:40],
)
async def test_an_error_of_a_plan_in_yaml_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        await planned(tmp_path / "plan.yaml", "run")
    assert str(caught.value).startswith(f"{tmp_path / 'plan.yaml'}: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_plan_that_runs_for_ever_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "CPU_SECONDS", 0.5)
    loops = "".join(f"{{% for a{n} in range(99999) %}}" for n in range(4)) + 4 * "{% endfor %}"
    (tmp_path / "plan.toml").write_text(f'[task.one]\ndescription = "{loops}"')
    with pytest.raises(ConfigurationError, match=r"plan\.toml: it took longer than 0\.5 s"):
        await planned(tmp_path / "plan.toml", "run")


async def test_a_separate_process_fills_in_the_same_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "plan.toml").write_text(MAP)
    monkeypatch.chdir(tmp_path)
    run, made = await planned(Path("plan.toml"), None, {"topic": "hares", "limit": 7}, {"priority": 7})
    assert run.startswith("plan-")
    assert made == load(Path("plan.toml")).tasks(run, {"topic": "hares", "limit": 7}, {"priority": 7})
