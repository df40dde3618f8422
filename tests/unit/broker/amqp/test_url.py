"""AMQP URLs, completed by settings."""

import ssl
from pathlib import Path

import pytest

from broker.access.admin_api import ManagementApi
from broker.amqp.pika_connection import parameters
from broker.amqp.url import Tls, completed, of_user, split_off_tls, tls_context, user_of, vhost
from broker.errors import ConfigurationError
from broker.node.locate import amqp_url
from broker.settings import Settings, load_settings


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"FLUFFLE_{name}", value)
    return load_settings()


def test_a_password_is_read_from_a_separate_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("p@ss/word\n")
    given = settings(monkeypatch, AMQP_URL="amqp://atlas@rabbit/team", AMQP_PASSWORD_FILE=str(tmp_path / "secret"))
    assert amqp_url(given) == "amqp://atlas:p%40ss%2Fword@rabbit/team"


def test_a_url_is_read_from_a_separate_file_with_its_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("amqp://ana:own@rabbit\n")
    given = settings(monkeypatch, AMQP_URL_FILE=str(tmp_path / "url"), AMQP_PASSWORD="another")
    assert amqp_url(given) == "amqp://ana:own@rabbit"


def test_printed_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "AMQP_URL": "amqp://a:s3cret@h",
        "AMQP_PASSWORD": "s3cret",
        "DATABASE_URL": "postgresql+psycopg://u:s3cret@h/d",
    }
    given = settings(monkeypatch, **secrets, MANAGEMENT_URL="http://a:s3cret@h:15672")
    assert "s3cret" not in f"{given!r} {given}"


def test_tls_settings_become_parameters_of_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"TLS_CA": "/ca.pem", "TLS_CERT": "/me.pem", "TLS_KEY": "/me.key"}
    url = amqp_url(settings(monkeypatch, AMQP_URL="amqps://atlas@rabbit?heartbeat=30", TLS_LOGIN="true", **files))
    plain, tls = split_off_tls(url)
    assert plain == "amqps://atlas@rabbit?heartbeat=30"
    assert tls == Tls("/ca.pem", "/me.pem", "/me.key", None, external=True)


def test_tls_parameters_of_the_url_override_the_settings() -> None:
    url = completed("amqps://h?cacertfile=/own.pem", parameters={"cacertfile": "/other.pem"})
    assert split_off_tls(url)[1].ca_file == "/own.pem"


@pytest.mark.parametrize(
    ("url", "user", "host"),
    [
        ("amqp://ana:x@h/team", "ana", "team"),
        ("amqp://a%40b:x@h/%2F", "a@b", "/"),
        ("amqp://h", "guest", "/"),
        ("amqps://h?auth_mechanism=external", None, "/"),
        ("amqps://ana@h/v?auth_mechanism=external", "ana", "v"),
    ],
)
def test_user_and_virtual_host_of_a_url(url: str, user: str | None, host: str) -> None:
    assert (user_of(url), vhost(url)) == (user, host)


def test_the_url_of_another_user_has_no_password_or_certificate_of_this_one() -> None:
    url = of_user("amqps://ana:x@h:5671/v?cacertfile=/ca.pem&certfile=/ana.pem", "atlas", "p@")
    assert url == "amqps://atlas:p%40@h:5671/v"


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("amqp://ana:s#3cret@h:5672", 'a "#" in a user, password or virtual host must be written %23'),
        ("amqp://ana:3cret@h:5672/v#1", 'a "#" in a user, password or virtual host must be written %23'),
        ("amqp://ana:s/3cret@h:5672", 'a "/" in a user, password or virtual host must be written %2F'),
        ("amqp://ana:12/3cret@h:5672", 'a "/" in a user, password or virtual host must be written %2F'),
        ("amqp://ana:12?3cret@h:5672", r'a "\?" in a user, password or virtual host must be written %3F'),
        ("amqp://ana:[3cret@h:5672", r'a "\[" in a user, password or virtual host must be written %5B'),
        ("amqp://ana:3cret@h/a@b", 'a "/" or "@" in a user, password or virtual host must be written %2F or %40'),
        ("amqp://ana:3cret@[::1", "cannot be read: it must be like amqp://user:password@host:port/vhost"),
        ("amqp://ana:3cret@h:port", "cannot be read: it must be like amqp://user:password@host:port/vhost"),
        ("amqp://ana:3cret@h?heartbeat=3cret", r"a parameter has a wrong value \(heartbeat\)"),
        ("ana:3cret@h", "must begin with amqp:// or amqps://"),
        ("3cret", "must begin with amqp:// or amqps://"),
        ("http://ana:3cret@h", "must begin with amqp:// or amqps://"),
    ],
)
def test_an_error_about_a_url_never_shows_its_password(rest: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        parameters(completed(rest), name="test")
    assert "3cret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    "url", ["http://ana:s#3cret@h:15672", "ana:3cret@h", "http://ana:3cret@[::1", "amqp://ana:3cret@h"]
)
def test_an_error_about_the_management_url_never_shows_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="FLUFFLE_MANAGEMENT_URL") as caught:
        ManagementApi("amqp://ana:x@h", url)
    assert "3cret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("amqp://h?cacertfile=/ca.pem", "amqps://"),
        ("amqps://h?auth_mechanism=kerberos", "external or plain"),
    ],
)
def test_an_invalid_url_is_an_error_with_a_reason(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        split_off_tls(url)


@pytest.mark.parametrize(
    ("tls", "told"),
    [
        (Tls(ca_file="/no/such/ca.pem"), "/no/such/ca.pem: No such file"),
        (Tls(ca_file=__file__), __file__),
        (
            Tls(certificate="/no/such/me.pem", key="/no/such/me.key"),
            "/no/such/me.pem and /no/such/me.key: No such file",
        ),
        (Tls(key="/me.key"), "FLUFFLE_TLS_CERT"),
        (Tls(external=True), "FLUFFLE_TLS_CERT"),
    ],
)
def test_an_error_names_the_unusable_file(tls: Tls, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        tls_context(tls)


def test_certificate_and_name_are_always_verified() -> None:
    context = tls_context(Tls())
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
