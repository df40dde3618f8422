"""The file fluffle.toml."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from broker.errors import ConfigurationError
from broker.settings import Settings, load_settings
from fluffle.local.config import BudgetTable, LimitTable, LLMTable, PriceTable, load
from tests.support.processes import ROOT
from tests.unit.docs.test_docs import code, table_after

PAGE = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings come from the file alone."""
    for field in Settings.model_fields:
        monkeypatch.delenv(f"FLUFFLE_{field.upper()}", raising=False)


def write(folder: Path, text: str) -> Path:
    path = folder / "fluffle.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problem(folder: Path, text: str) -> str:
    """What is said about a file that is wrong."""
    with pytest.raises(ConfigurationError) as caught:
        load(write(folder, text))
    path, _, rest = str(caught.value).partition(": ")
    assert path == str(folder / "fluffle.toml")
    return rest


def test_a_file_gives_settings_and_llms(tmp_path: Path) -> None:
    configuration = load(
        write(
            tmp_path,
            """
            [fluffle]
            lease = 5

            [llm.atlas]
            model = "demo"
            skills = { summarise = 0.9, review = 1 }
            slots = 2
            instructions = "Be brief."

            [llm.vega]
            exec = "wc -w"
            command_env = ["A_KEY", "B_KEY"]
            skills = ["count"]
            labels = ["local", "gpu"]
            timeout = 30
            env = { LANG = "C" }
            """,
        )
    )
    assert configuration.settings.lease == 5
    assert configuration.given == {"lease"}
    assert configuration.llms["atlas"].options(Path("/tmp/atlas.txt")) == [
        "--model=demo",
        "--skills=review,summarise=0.9",
        "--slots=2",
        "--instructions=/tmp/atlas.txt",
    ]
    vega = configuration.llms["vega"]
    assert vega.options(None) == [
        "--exec=wc -w",
        "--env=A_KEY,B_KEY",
        "--skills=count",
        "--labels=local,gpu",
        "--slots=1",
        "--timeout=30",
    ]
    assert vega.env == {"LANG": "C"}


def test_a_variable_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUFFLE_LEASE", "7")
    assert load(write(tmp_path, "[fluffle]\nlease = 5\n")).settings.lease == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[llm.atlas]\nmodle = "demo"\nmodel = "demo"', "llm.atlas.modle: unknown key; did you mean model?"),
        ("[fluffle]\nlaese = 5", "fluffle.laese: unknown key; did you mean lease?"),
        ("[lm.atlas]", "lm: unknown key; did you mean llm?"),
        ("[llm.atlas]", "llm.atlas: needs exactly one of model, exec and handler"),
        ('[llm.atlas]\nmodel = "demo"\nexec = "x"', "llm.atlas: needs exactly one of model, exec and handler"),
        ('[llm.atlas]\nexec = "x"\nbase_url = "http://x"', "llm.atlas: base_url needs model"),
        ('[llm.atlas]\nmodel = "demo"\ncommand_env = ["X"]', "llm.atlas: command_env needs exec"),
        (
            '[llm.atlas]\nmodel = "demo"\ninstructions = "a"\ninstructions_file = "b"',
            "llm.atlas: has both instructions and instructions_file",
        ),
        ('[llm.atlas]\nmodel = "demo"\nslots = "2"', "llm.atlas.slots: Input should be a valid integer"),
        ('[llm.atlas]\nmodel = "demo"\nlabels = ["GPU"]', "llm.atlas.labels.0: "),
        (
            '[llm.atlas]\nmodel = "demo"\nskills = { Python = 0.5 }',
            "llm.atlas.skills.Python: must be 1-63 characters: a-z, 0-9 or any",
        ),
        ('[llm.atlas]\nmodel = "demo"\nskills = { python = 2 }', "llm.atlas.skills.python: "),
        ('[llm.At_las]\nmodel = "demo"', 'llm.At_las: must be 1-63 characters: a-z, 0-9 or "-"'),
        ("[fluffle]\nlease = 0", "fluffle.lease: Input should be greater than or equal to 1"),
        ('[llm.atlas]\nmodel = "demo"\ntools = ["snd"]', "llm.atlas.tools.0: Input should be 'send', 'ask', "),
        ('[llm.atlas]\nmodel = "demo"\ntools = "some"', "llm.atlas.tools: Input should be a valid list"),
        ('[llm]\natlas = "demo"', "llm.atlas: must be a table"),
        ("[fluffle\n", "Expected ']'"),
        (
            "[limits.main]\nrequest_per_minute = 5",
            "limits.main.request_per_minute: unknown key; did you mean requests_",
        ),
        ("[limits.main]", "limits.main: needs at least one of requests_per_minute, tokens_per_minute and concurrent"),
        ("[limits.main]\nconcurrent = 0", "limits.main.concurrent: Input should be greater than or equal to 1"),
        ("[limits]\nmain = 5", "limits.main: must be a table, which begins with a line such as [limits.main]"),
        ("[limits.Main]\nconcurrent = 1", "limits.Main: must be 1-63 characters"),
        ("[budgets.team]\nper = 'day'", "budgets.team: needs at least one of usd, tokens and runs"),
        ("[budgets.team]\nusd = -1", "budgets.team.usd: Input should be greater than 0"),
        ("[budgets.team]\nusd = inf", "budgets.team.usd: Input should be a finite number"),
        ("[budgets.team]\nusd = 1\nper = 'year'", "budgets.team.per: Input should be 'hour', 'day', 'week' or 'month'"),
        ("[budgets.'task:t-1']\nusd = 1", "budgets.task:t-1: must be 1-63 characters"),
        ("[prices.'gpt-6.1']\nimput = 1\noutput = 1", "prices.gpt-6.1.input: Field required"),
        ('[llm.atlas]\nmodel = "demo"\nprice = { input = 1 }', "llm.atlas.price.output: Field required"),
        (
            '[llm.atlas]\nmodel = "demo"\nprice = { input = 1, output = 1, ouput = 1 }',
            "llm.atlas.price.ouput: unknown key; did you mean output?",
        ),
        ('[llm.atlas]\nexec = "x"\nfallback = ["demo"]', "llm.atlas: fallback needs model"),
        ('[llm.atlas]\nmodel = "demo"\nspill = "late"', "llm.atlas: spill and spill_after need reserve = true"),
        ('[llm.atlas]\nmodel = "demo"\nreserve = true\nspill_after = 5', 'llm.atlas: spill_after needs spill = "busy"'),
        ('[llm.atlas]\nmodel = "demo"\nabilities = ["smell"]', "llm.atlas.abilities.0: Input should be 'tools', "),
    ],
)
def test_a_problem_is_named_by_its_path(text: str, said: str, tmp_path: Path) -> None:
    assert problem(tmp_path, text).startswith(said)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    told = problem(tmp_path, '[llm.a]\nmodel = 1\n[llm.b]\nmodel = "demo"\nslot = 2')
    assert "llm.a.model: " in told
    assert "llm.b.slot: unknown key; did you mean slots?" in told


def test_the_error_for_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"there is no file .*fluffle\.toml: create one .* or name another with -c"
    ):
        load(tmp_path / "fluffle.toml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fluffle.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="utf-8"):
        load(path)


@pytest.mark.parametrize(
    ("marker", "kind"),
    [("llm keys", LLMTable), ("limit keys", LimitTable), ("budget keys", BudgetTable), ("price keys", PriceTable)],
)
def test_every_key_is_described_with_its_default(marker: str, kind: type[BaseModel]) -> None:
    described = {code(key)[0]: (default.strip("`"), meaning) for key, default, meaning in table_after(marker, PAGE)}
    assert described.keys() == kind.model_fields.keys()
    for key, info in kind.model_fields.items():
        default, meaning = described[key]
        assert meaning == info.description
        if info.is_required():
            assert default == "required"
        else:
            assert default == ("none" if info.default in (None, "", {}, []) else str(info.default))


def test_limits_budgets_and_prices_are_read(tmp_path: Path) -> None:
    configuration = load(
        write(
            tmp_path,
            """
            [limits."openai-main"]
            requests_per_minute = 500
            concurrent = 8

            [budgets.team]
            usd = 20
            per = "day"

            [prices."gpt-6-luna"]
            input = 3
            output = 15.5
            cached_input = 0.3

            [prices."ollama:llama3.2"]
            input = 0
            output = 0

            [llm.atlas]
            model = "openai:gpt-6-luna"
            limit = "openai-main"
            fallback = ["ollama:llama3.2", "openai:gpt-6-sol"]
            local = false
            reserve = true
            spill = "busy"
            spill_after = 90
            context_window = 8192
            abilities = ["tools", "schema"]

            [llm.vega]
            model = "openai:gpt-6-luna"
            price = { input = 0, output = 0 }
            """,
        )
    )
    assert configuration.limits["openai-main"].model_dump() == {
        "requests_per_minute": 500,
        "tokens_per_minute": None,
        "concurrent": 8,
    }
    team = configuration.budgets["team"].model_dump(exclude_none=True)
    assert team == {"usd": 20, "per": "day", "on_empty": "wait"}
    atlas, vega = configuration.llms["atlas"], configuration.llms["vega"]
    assert atlas.options(None, configuration.prices)[2:] == [
        "--limit=openai-main",
        "--fallback=ollama:llama3.2,openai:gpt-6-sol",
        "--spill=busy:90",
        "--context-window=8192",
        "--abilities=tools,schema",
        "--price=3,15.5,0.3",
        "--price=ollama:llama3.2=0,0",
        "--reserve",
    ]
    assert atlas.grant() == {"local": False, "reserve": True, "spill": "busy", "spill_after": 90}
    assert vega.options(None, configuration.prices)[2:] == ["--price=0,0"]
    assert vega.grant() == {}


def test_the_example_in_the_docs_is_valid(tmp_path: Path) -> None:
    example = PAGE.partition("```toml\n")[2].partition("```")[0]
    assert load(write(tmp_path, example)).llms.keys() >= {"atlas"}


def test_an_invalid_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUFFLE_LEASE", "soon")
    with pytest.raises(ConfigurationError, match=r"^FLUFFLE_LEASE: Input should be a valid number"):
        load(write(tmp_path, "[fluffle]\nlease = 5\n"))


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("FLUFFLE_AMPQ_URL", "FLUFFLE_AMQP_URL"),
        ("FLUFFLE_LAESE", "FLUFFLE_LEASE"),
        ("FLUFFLE_DATABASE_URL_FIL", "FLUFFLE_DATABASE_URL_FILE"),
    ],
)
def test_a_mistyped_variable_is_an_error(variable: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.raises(ConfigurationError, match=f"^{variable}: there is no such setting; did you mean {meant}\\?$"):
        load_settings()


def test_an_unknown_variable_is_named_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("FLUFFLE_AMQP", "x")
    monkeypatch.setenv("FLUFFLE_COLOUR", "x")
    load_settings()
    load_settings()
    assert caplog.messages == [
        "FLUFFLE_AMQP is not a setting and has no effect; did you mean FLUFFLE_AMQP_URL?",
        "FLUFFLE_COLOUR is not a setting and has no effect; see docs/settings.md for all settings",
    ]


def test_byte_order_marks_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_bytes(b"\xef\xbb\xbf" + b"t" * 20)
    monkeypatch.setenv("FLUFFLE_WEB_TOKEN_FILE", str(tmp_path / "token"))
    settings = load(write(tmp_path, "\ufeff[fluffle]\nlease = 5\n")).settings
    assert settings.lease == 5
    assert settings.web_token is not None
    assert settings.web_token.get_secret_value() == "t" * 20


def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    assert problem(tmp_path, "a = " + "[" * 100_000) == "nested too deeply"


def test_variables_without_the_prefix_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLUFFLE_TASK_ID", "FLUFFLE_TOOLS", "FLUFFLE_RABBITMQ_SERVER", "FLUFFLE_TEST_AMQP_URL"):
        monkeypatch.setenv(name, "x")
    assert load_settings().amqp_url is None


def test_the_level_of_the_log_may_be_in_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUFFLE_LOG_LEVEL", "debug")
    assert load_settings().log_level == "DEBUG"


def test_missing_instructions_are_an_error_before_anything_starts(tmp_path: Path) -> None:
    text = '[llm.atlas]\nmodel = "demo"\ninstructions_file = "how.txt"'
    assert problem(tmp_path, text) == f"llm.atlas.instructions_file: there is no file {tmp_path / 'how.txt'}"
    (tmp_path / "how.txt").write_text("Be brief.", encoding="utf-8")
    assert load(tmp_path / "fluffle.toml").llms["atlas"].instructions_file == "how.txt"


@pytest.mark.parametrize(
    ("tools", "options"), [('"all"', "send,ask,delegate,ask_person,share,read"), ('"none"', "none"), ('["ask"]', "ask")]
)
def test_tools_are_all_none_or_a_list(tools: str, options: str, tmp_path: Path) -> None:
    table = load(write(tmp_path, f'[llm.atlas]\nmodel = "demo"\ntools = {tools}')).llms["atlas"]
    assert f"--tools={options}" in table.options(None)


def test_the_properties_of_an_llm_are_options_of_its_worker(tmp_path: Path) -> None:
    table = load(
        write(
            tmp_path,
            """
            [llm.atlas]
            model = "openai:gpt-6-luna"
            fallback = ["anthropic:claude-haiku-5-5", "ollama:llama3.2"]
            limit = "openai-main"
            price = { input = 0.1, output = 0.5, cached_input = 0.01 }
            reserve = true
            spill = "busy"
            spill_after = 90
            context_window = 128000
            abilities = ["tools", "schema"]
            """,
        )
    ).llms["atlas"]
    assert table.options(None) == [
        "--model=openai:gpt-6-luna",
        "--slots=1",
        "--limit=openai-main",
        "--fallback=anthropic:claude-haiku-5-5,ollama:llama3.2",
        "--spill=busy:90",
        "--context-window=128000",
        "--abilities=tools,schema",
        "--price=0.1,0.5,0.01",
        "--reserve",
    ]


def test_the_price_of_a_model_goes_to_the_llms_that_use_it(tmp_path: Path) -> None:
    configuration = load(
        write(
            tmp_path,
            """
            [prices]
            "ollama:llama3.2" = 0

            [prices."openai:gpt-6-luna"]
            input = 0.1
            output = 0.5
            cache_write = 0.2

            [llm.atlas]
            model = "openai:gpt-6-luna"
            fallback = ["ollama:llama3.2"]

            [llm.vega]
            model = "openai:gpt-6-luna"
            price = 0

            [llm.iris]
            exec = "wc -w"
            """,
        )
    )

    def prices(name: str) -> list[str]:
        options = configuration.llms[name].options(None, configuration.prices)
        return [option.removeprefix("--price=") for option in options if option.startswith("--price")]

    assert prices("atlas") == ["0.1,0.5,0.1,0.2", "ollama:llama3.2=0,0"]
    assert prices("vega") == ["0,0"]
    assert prices("iris") == []


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("price = -1", "llm.atlas.price"),
        ("price = { input = 1, output = inf }", "llm.atlas.price.output"),
        ('spill = "sometimes"', "llm.atlas.spill"),
        ('abilities = ["flying"]', "llm.atlas.abilities.0"),
        ('limit = "Main Account"', "llm.atlas.limit"),
    ],
)
def test_an_impossible_property_is_an_error_that_names_its_key(tmp_path: Path, lines: str, said: str) -> None:
    assert said in problem(tmp_path, f'[llm.atlas]\nmodel = "demo"\n{lines}')


def test_fallback_needs_a_model(tmp_path: Path) -> None:
    said = problem(tmp_path, '[llm.atlas]\nexec = "wc -w"\nfallback = ["openai:gpt-6-luna"]')
    assert "fallback needs model" in said
