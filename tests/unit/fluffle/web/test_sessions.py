"""Sessions that were ended by a logout."""

from pathlib import Path

import pytest

from broker.errors import ConfigurationError
from fluffle.web.access.auth import Authenticator, Tokens
from fluffle.web.access.sessions import EndedSessions

TOKEN = "0123456789abcdef"


def test_an_ended_session_is_invalid_in_every_process(tmp_path: Path) -> None:
    path = tmp_path / "state" / "web.ended"
    here, there = (Authenticator(Tokens(TOKEN), secret=TOKEN, ended=EndedSessions(path)) for _ in range(2))
    cookie, other = here.enter("", TOKEN), here.enter("", TOKEN)
    visitor = there.visitor(cookie)
    assert visitor is not None
    here.leave(visitor, now=1000.0)
    assert here.visitor(cookie) is None
    assert there.visitor(cookie) is None
    assert Authenticator(Tokens(TOKEN), secret=TOKEN, ended=EndedSessions(path)).visitor(cookie) is None
    assert there.visitor(other) is not None
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_session_is_forgotten_when_its_cookie_has_expired(tmp_path: Path) -> None:
    ended = EndedSessions(tmp_path / "web.ended")
    ended.add("first", now=0.0, lasts=10.0)
    ended.add("second", now=11.0, lasts=10.0)
    assert "first" not in ended
    assert "second" in ended


def test_a_file_without_a_list_of_sessions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "web.ended"
    path.write_text("what is this\n")
    with pytest.raises(ConfigurationError, match="cannot read the list of logged-out sessions"):
        EndedSessions(path)


def test_a_browser_is_known_by_a_signed_cookie() -> None:
    auth = Authenticator(Tokens(TOKEN), secret=TOKEN)
    assert auth.device(auth.known_device()) is not None
    for cookie in (
        None,
        "",
        "forged",
        Authenticator(Tokens(TOKEN), secret="another").known_device(),
        auth.enter("", TOKEN),
    ):
        assert auth.device(cookie) is None
