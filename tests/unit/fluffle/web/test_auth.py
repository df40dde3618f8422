"""Who may come in to the web page."""

from pathlib import Path

import pytest

from broker.errors import ConfigurationError
from fluffle.cli import main
from fluffle.cli.exit_codes import ERROR
from fluffle.web.access.auth import Authenticator, NoLogin, Passwords, Role, Tokens, kept_secret, set_password

TOKEN = "0123456789abcdef"


def test_each_token_lets_in_as_its_role() -> None:
    keys = Tokens(TOKEN)
    auth = Authenticator(keys, secret=TOKEN)
    for role in Role:
        cookie = auth.enter("", keys.token(role))
        visitor = auth.visitor(cookie)
        assert visitor is not None
        assert (visitor.role, visitor.may_change) == (role, role is Role.OPERATOR)
    assert keys.token(Role.VIEWER) != TOKEN
    assert auth.enter("", "another") is None


def test_every_login_is_a_separate_session() -> None:
    auth = Authenticator(Tokens(TOKEN), secret=TOKEN)
    first, second = (auth.visitor(auth.enter("", TOKEN)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.session != second.session


@pytest.mark.parametrize("cookie", [None, "", "x", "x.y.z", "WyJvcGVyYXRvciJd.x.y"])
def test_a_cookie_without_a_valid_signature_has_no_visitor(cookie: str | None) -> None:
    assert Authenticator(Tokens(TOKEN), secret=TOKEN).visitor(cookie) is None


def test_a_session_ends_with_the_token_that_it_was_given_for() -> None:
    cookie = Authenticator(Tokens(TOKEN), secret=TOKEN).enter("", TOKEN)
    assert Authenticator(Tokens("another token here"), secret="another token here").visitor(cookie) is None
    assert Authenticator(Tokens("another token here"), secret=TOKEN).visitor(cookie) is None


def test_people_log_in_with_a_password_while_their_line_exists(tmp_path: Path) -> None:
    path = tmp_path / "people"
    set_password(path, "ana", Role.OPERATOR, "carrots")
    set_password(path, "ben", Role.VIEWER, "clover")
    assert path.stat().st_mode & 0o777 == 0o600
    auth = Authenticator(Passwords(path), secret=TOKEN)
    assert auth.enter("ana", "clover") is None
    assert auth.enter("eve", "carrots") is None
    ana, ben = auth.enter("ana", "carrots"), auth.enter("ben", "clover")
    ana_visits, ben_visits = auth.visitor(ana), auth.visitor(ben)
    assert ana_visits is not None
    assert ben_visits is not None
    assert (ana_visits.name, ana_visits.role, ben_visits.role) == ("ana", Role.OPERATOR, Role.VIEWER)

    set_password(path, "ana", Role.OPERATOR, "lettuce")
    assert auth.visitor(ana) is None
    assert auth.visitor(ben) is not None
    set_password(path, "ben", Role.OPERATOR, "clover")
    assert auth.visitor(ben) is None


def test_a_password_file_with_a_wrong_line_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "people"
    path.write_text("# ours\nana:king:x$y\n")
    with pytest.raises(ConfigurationError, match="line 2: expected NAME:operator:HASH"):
        Passwords(path)
    with pytest.raises(ConfigurationError, match="cannot read the password file"):
        Passwords(tmp_path / "nowhere")


def test_without_a_login_every_visitor_is_the_operator() -> None:
    visitor = Authenticator(NoLogin(), secret=TOKEN).visitor(None)
    assert visitor is not None
    assert visitor.may_change


def test_the_secret_is_created_once_and_only_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "state" / "web.token"
    secret = kept_secret(path)
    assert len(secret) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert kept_secret(path) == secret
    path.write_text("")
    with pytest.raises(ConfigurationError, match="is empty"):
        kept_secret(path)


@pytest.mark.parametrize("command", [["web"], ["web", "passwd", "people", "ana"]])
def test_without_its_libraries_the_web_page_says_what_to_install(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main.run(command) == ERROR
    assert capsys.readouterr().err == (
        "Error: the web page needs NiceGUI: install it with `pip install 'fluffle[web]'`\n"
    )
