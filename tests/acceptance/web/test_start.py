"""Starting and stopping the web page from the command line."""

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import fluffle
from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell
from tests.support.site import Site, site_on


@pytest.fixture(scope="module")
def place(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site on which nothing runs."""
    with site_on(rabbitmq, tmp_path_factory.mktemp("web")) as site:
        yield site


def test_it_says_where_it_is_and_ends_when_it_is_asked_to(place: Site) -> None:
    with fluffle("web", "--port", "0", url=place.url, state=place.state, until="to look") as web:
        ready, to_work, to_look = web.output.splitlines()
        base = ready.removeprefix("web: ready at ").rstrip("/")
        assert base.startswith("http://127.0.0.1:")
        for line, purpose in ((to_work, "to work"), (to_look, "to look")):
            assert line.startswith(f"web: {purpose}: {base}/login?token=")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{base}/")
        assert refused.value.code == 401
        web.terminate()
        assert web.wait() == 0
    with fluffle("web", "--port", "0", url=place.url, state=place.state, until="to look") as again:
        assert to_work.split("token=")[1] in again.output, "the token lasts"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--no-login", "--host", "0.0.0.0"), "cannot listen at 0.0.0.0 without a login"),
        (("--password-file", "nowhere"), "cannot read the password file nowhere"),
        (("--prefix", "fluffle"), "the prefix of the web page must be a path such as /fluffle"),
        (("--host", "203.0.113.1"), "cannot listen at 203.0.113.1:8480"),
    ],
)
def test_what_it_must_not_or_cannot_do_is_one_line(options: tuple[str, ...], said: str, place: Site) -> None:
    assert said in Shell(place.url, place.state).error("web", *options)


def test_passwords_are_set_from_a_pipe(place: Site, tmp_path: Path) -> None:
    file = tmp_path / "people"
    shell = Shell(place.url, place.state)
    shell("web", "passwd", str(file), "ana", given="carrots\n")
    shell("web", "passwd", str(file), "ben", "--role", "viewer", given="clover\n")
    assert [line.rpartition(":")[0] for line in file.read_text().splitlines()] == ["ana:operator", "ben:viewer"]
    assert "carrots" not in file.read_text()
    assert "empty" in shell.error("web", "passwd", str(file), "eve", given="\n", code=2)


def test_its_help_does_without_nicegui() -> None:
    code = "import sys, fluffle.cli.main as m; m.run(['web', '--help']); print('nicegui' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).endswith("False\n")
