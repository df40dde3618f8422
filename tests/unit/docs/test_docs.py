"""The reference pages agree with the code."""

import re
import shlex
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import get_args

import click
import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from broker.access.roles import Role, TopicPermission, permissions
from broker.errors import Problem
from broker.protocol import assignments, queries, spending, task_requests, topology, views, worker_reports
from broker.protocol import chat as mail
from broker.protocol import primitives as wire
from broker.protocol.primitives import WireModel
from broker.protocol.report_catalog import DIMENSIONS, METRICS, PREDEFINED, Of
from broker.protocol.status import FAULTS, Fault
from broker.protocol.views import View
from broker.settings import Settings
from broker.timestamps import Instant
from coordinator.core.commands import AnswerType
from coordinator.core.tasks.transitions import TRANSITIONS
from coordinator.outbound.encoder import messages as messages_of
from coordinator.outbound.outbox import RejectedMessage
from coordinator.queries.reports.facts import Span
from coordinator.queries.reports.summary import summary
from coordinator.storage.engine import open_engine
from coordinator.storage.upgrade import upgrade
from fluffle.cli.main import cli
from fluffle.local.config import load
from tests.support.processes import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "examples/README.md"])
PROTOCOL = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
MODELS = {
    name: model
    for name, model in {
        **vars(assignments),
        **vars(mail),
        **vars(queries),
        **vars(spending),
        **vars(task_requests),
        **vars(views),
        **vars(worker_reports),
    }.items()
    if isinstance(model, type)
    and issubclass(model, WireModel | View)
    and model not in (WireModel, View, queries.ReportFields)
    and set(model.model_fields) != set(getattr(model.__base__, "model_fields", ()))
}


def table_after(marker: str, page: str = PROTOCOL) -> list[list[str]]:
    """Return the cells of the table that follows the comment `<!-- marker -->`, without its head."""
    _, found, rest = page.partition(f"<!-- {marker} -->\n")
    assert found, f"no table is marked {marker!r}"
    rows = rest.split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in (row.strip() for row in rows)]


def code(cell: str) -> list[str]:
    """Return the words of a cell that are set as code."""
    return re.findall(r"`([^`]*)`", cell)


def test_every_exchange_is_described_with_its_type() -> None:
    described = {code(name)[0]: kind for name, kind, *_ in table_after("exchanges")}
    assert described == {exchange.name: exchange.type for exchange in topology.SHARED.exchanges}


@pytest.mark.parametrize(
    ("exchange", "keys"), [(topology.TASKS, topology.TASK_KEYS), (topology.QUERIES, topology.QUERY_KEYS)]
)
def test_every_routing_key_is_described(exchange: str, keys: tuple[str, ...]) -> None:
    described = {code(row[0])[0]: code(row[3]) for row in table_after("exchanges")}
    assert described[exchange] == list(keys)


def test_every_queue_is_described_with_its_arguments() -> None:
    work = {name: value.strip("`") for name, value in table_after("work queue arguments")}
    work = {name.strip("`"): value for name, value in work.items()}
    described = {}
    for name, _, arguments in table_after("queues"):
        queue = code(name)[0]
        own = dict(argument.split("=") for argument in code(arguments))
        described[queue] = (
            {key: value.replace("<queue>", queue) for key, value in work.items()} | own
            if "work queue" in arguments
            else own
        )
    declared = (
        *topology.SHARED.queues,
        *topology.llm_topology("<name>").queues,
        *topology.mailbox("user.<name>").queues,
        *topology.instance_topology("<name>", "<instance>").queues,
    )
    assert described == {queue.name: {key: str(value) for key, value in queue.arguments.items()} for queue in declared}


def test_every_binding_is_described() -> None:
    described = {
        (code(exchange)[0], code(key)[0] if code(key) else "", code(queue)[0])
        for exchange, key, queue in table_after("bindings")
    }
    declared = (
        *topology.SHARED.bindings,
        *topology.llm_topology("<name>", ["<group>"]).bindings,
        *topology.instance_topology("<name>", "<instance>").bindings,
        *topology.mailbox("user.<name>", ["<group>"]).bindings,
    )
    assert described == {(binding.exchange, binding.routing_key, binding.queue) for binding in declared} | {
        (relay.exchange, "#", relay.to) for relay in topology.SHARED.relays
    }


@pytest.mark.parametrize("name", MODELS)
def test_every_field_of_a_message_is_described(name: str) -> None:
    model: type[BaseModel] = MODELS[name]
    described = {field: value for fields, value, *_ in table_after(f"fields: {name}") for field in code(fields)}
    assert described.keys() == model.model_fields.keys()
    required = {field for field, value in described.items() if value.endswith("required")}
    assert required == {field for field, info in model.model_fields.items() if info.is_required()}


@pytest.mark.parametrize("name", MODELS)
def test_every_default_that_is_described_is_the_default(name: str) -> None:
    for fields, value, *_ in table_after(f"fields: {name}"):
        if found := re.search(r", default `?(\w+)`?$", value):
            default = MODELS[name].model_fields[code(fields)[0]].default
            assert found[1] == (str(default).lower() if isinstance(default, bool) else str(default))


def test_whose_fault_each_type_of_failure_is_is_described() -> None:
    described = {kind: Fault(code(fault)[0]) for fault, _, kinds in table_after("faults") for kind in code(kinds)}
    assert described == FAULTS


def test_every_state_and_where_it_leads_is_described() -> None:
    described = {code(state)[0]: set(code(following)) for state, _, following, _ in table_after("states")}
    reached: dict[str, set[str]] = {}
    for (state, _), following in TRANSITIONS.items():
        reached.setdefault(state, set()).add(following)
    assert described == reached


def test_every_type_of_answer_is_described() -> None:
    described = [code(row[0])[0] for row in table_after("answers")]
    others = {"task.rejected", "llm.accepted", "report.accepted", "note.accepted", "note.answer"}
    others |= {"message.rejected", "query.answer", "query.rejected", "budget.accepted", "limit.accepted"}
    assert set(described) == {*get_args(AnswerType), *others}


def test_every_header_of_a_rejected_message_is_described() -> None:
    keep = RejectedMessage("fluffle.tasks", "submit", b"{", {}, (Problem("", "no JSON"),), Instant(0), user="ana")
    rejected, _ = messages_of([keep], {}, {})
    assert [code(row[0])[0] for row in table_after("rejected headers")] == list(rejected.headers or {})


def test_every_value_of_the_summary_is_described(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'books.db'}")
    upgrade(engine)
    with engine.begin() as connection:
        figures = summary(connection, PREDEFINED["summary"], Span(None, None, Instant(0)), [])
    engine.dispose()
    assert [figure for row in table_after("summary") for figure in code(row[0])] == list(figures)


def test_every_report_dimension_and_metric_is_described() -> None:
    page = (ROOT / "docs/reports.md").read_text(encoding="utf-8")
    dimensions = [(code(name)[0], meaning, of.split(", ")) for name, meaning, of, _ in table_after("dimensions", page)]
    assert dimensions == [(one.name, one.meaning, [of for of in Of if of in one.of]) for one in DIMENSIONS.values()]
    metrics = [(code(name)[0], unit, of, meaning) for name, unit, of, meaning in table_after("metrics", page)]
    assert metrics == [(one.name, one.unit, one.of, one.meaning) for one in METRICS.values()]
    reports = {
        code(name)[0]: (meaning, tuple(code(by)), tuple(code(metrics)), tuple(code(about)), moment)
        for name, meaning, by, metrics, about, moment in table_after("reports", page)
    }
    assert reports == {
        name: (one.meaning, one.group_by, one.metrics, tuple(one.where), one.moment) for name, one in PREDEFINED.items()
    }


def test_the_largest_body_and_the_deepest_nesting_are_described() -> None:
    assert f"({wire.MAX_BODY_BYTES:,} bytes" in PROTOCOL
    assert f"nested {wire.MAX_LEVELS} levels deep" in PROTOCOL


def test_every_setting_is_described_with_its_default() -> None:
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    described = {code(name)[0]: default.strip("`") for name, default, _ in table_after("settings", page)}
    assert described.keys() == {f"FLUFFLE_{field.upper()}" for field in Settings.model_fields}
    for field, info in Settings.model_fields.items():
        if info.default not in (PydanticUndefined, None):
            default = f"{info.default:g}" if isinstance(info.default, float) else str(info.default)
            default = default.lower() if isinstance(info.default, bool) else default
            assert described[f"FLUFFLE_{field.upper()}"].replace(",", "") == default


def names_in(expression: str) -> set[str]:
    """Return the names that a permission matches; a name that ends in `*` matches a prefix."""
    inner = expression.removeprefix("^(").removesuffix(")$")
    if r"\.(?!work$)" in inner:  # all but one
        inner = "|".join(
            inner.replace("(?!work$)", after).removesuffix(drop) for after, drop in (("", ""), ("work", ".*"))
        )
    return {re.sub(r"\\(.)", r"\1", name.removesuffix(".*")) + "*" * name.endswith(".*") for name in inner.split("|")}


@pytest.mark.parametrize("role", Role)
def test_the_permissions_of_every_role_are_described(role: Role) -> None:
    page = (ROOT / "docs/howto-identity.md").read_text(encoding="utf-8")
    [cells] = [cells for cells in table_after("roles", page) if code(cells[0]) == [role.value]]
    granted = permissions(role, "NAME")
    described = [{name.replace("<name>", "NAME") for name in code(cell)} for cell in cells[1:]]
    assert described == [names_in(granted.configure), names_in(granted.write), names_in(granted.read)]
    rows = [[" ".join(code(cell)).replace("<name>", "NAME") for cell in row] for row in table_after("topics", page)]
    topics = [TopicPermission(exchange, write, read) for name, exchange, write, read in rows if name == role.value]
    assert topics == list(granted.topics)


def test_the_example_team_is_a_valid_file() -> None:
    assert set(load(ROOT / "examples/fluffle.toml").llms) == {"ada", "bela", "cleo"}


def test_the_glossary_is_sorted_and_every_term_is_used_elsewhere() -> None:
    glossary = ROOT / "docs/glossary.md"
    words = re.findall(r"^- \*\*(.+?)\*\*: ", glossary.read_text(encoding="utf-8"), re.MULTILINE)
    assert words == sorted(words, key=str.lower)
    others = "\n".join(page.read_text(encoding="utf-8").lower() for page in PAGES if page != glossary)
    assert [word for word in words if word.lower() not in others] == []


def test_every_status_is_in_the_glossary() -> None:
    entry = (ROOT / "docs/glossary.md").read_text(encoding="utf-8").split("**status**", 1)[1].split("\n- ", 1)[0]
    assert set(code(entry)) == {str(state) for state, _ in TRANSITIONS}


def commands(page: Path) -> list[tuple[str, bool]]:
    """Yield every command line on a page, and whether it is in a block, and so complete."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^(?: {4})?(fluffle .+)$|`(fluffle [^`]+)`", text, re.MULTILINE)
    return [(line or inline, bool(line)) for line, inline in found]


@pytest.mark.parametrize(
    ("page", "line", "in_block"),
    [
        pytest.param(page, line, in_block, id=f"{page.stem}: {line}")
        for page in PAGES
        for line, in_block in commands(page)
        if not re.search(r"[\[|…]", line)  # a synopsis, not a command
    ],
)
def test_every_command_in_the_docs_exists(
    page: Path, line: str, in_block: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(page.parent if page.parent.name == "examples" else ROOT)
    for kind in (click.Path, click.File):  # on some pages the file is the reader's
        monkeypatch.setattr(kind, "convert", lambda self, value, param, ctx: value)
    command: click.Command = cli
    context = click.Context(command)
    _, *words = shlex.split(line, comments=True)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=name)
    if words or not isinstance(command, click.Group):
        with nullcontext() if in_block else suppress(click.MissingParameter):  # a mention may omit the arguments
            command.make_context(context.info_name, words, parent=context.parent)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_of_docs_is_listed_in_its_index() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")} - {"README.md"}
    assert pages == {link for link in re.findall(r"\]\(([^)#\s]+\.md)\)", index) if not link.startswith("../")}
