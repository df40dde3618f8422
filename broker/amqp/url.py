"""Parse and complete AMQP URLs: host, user, password and TLS parameters.

The TLS query parameters are those of RabbitMQ's own clients: `cacertfile`, `certfile`, `keyfile`,
`server_name_indication`, and `auth_mechanism=external` for a login with a certificate.
"""

import re
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from broker.errors import CertificateRefused, ConfigurationError

AMQP_FORM = "amqp://user:password@host:port/vhost"
_WRITTEN = {"#": "%23", "/": "%2F", "?": "%3F", "[": "%5B", "]": "%5D", "@": "%40"}
_CERTIFICATE_ALERT = re.compile(r"\[SSL: \w+_ALERT_(\w*(?:CERTIFICATE|UNKNOWN_CA)\w*)\]")  # an error text of OpenSSL
_TLS = ("cacertfile", "certfile", "keyfile", "server_name_indication", "auth_mechanism")


@dataclass(frozen=True, slots=True)
class Tls:
    """The TLS options of a connection. Without `ca_file`, the CA certificates of this computer are trusted."""

    ca_file: str | None = None
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None
    external: bool = False


def split_url(
    url: str, *, what: str = "the AMQP URL", schemes: Collection[str] = ("amqp", "amqps"), form: str = AMQP_FORM
) -> SplitResult:
    """Return the parts of a URL that may hold a password.

    Raises ConfigurationError, which shows nothing of the URL: in an invalid URL any part may be the password.
    """
    if not re.match(r"[a-z]+://", url):
        raise ConfigurationError(f"{what} must begin with {' or '.join(f'{it}://' for it in schemes)}, as in {form}")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError unless it is a number
    except ValueError:
        hint = _misplaced(url) or f"it must be like {form}"
        raise ConfigurationError(f"{what} cannot be read: {hint}") from None  # the cause would show a part of the URL
    if parts.scheme not in schemes:
        raise ConfigurationError(f"{what} must begin with {' or '.join(f'{it}://' for it in schemes)}, as in {form}")
    if "#" in url or "@" in parts.path or ("@" not in parts.netloc and "@" in parts.query):
        raise ConfigurationError(f"{what} cannot be read: {_misplaced(url)}")
    return parts


def _misplaced(url: str) -> str:
    """Return a hint about characters in the user, password or virtual host that must be percent-encoded; else ""."""
    names = url.partition("://")[2].rpartition("@")[0] + ("#" if "#" in url else "")
    found = [sign for sign in _WRITTEN if sign in names]
    signs, written = " or ".join(f'"{sign}"' for sign in found), " or ".join(_WRITTEN[sign] for sign in found)
    return f"a {signs} in a user, password or virtual host must be written {written}" if found else ""


def split_off_tls(url: str) -> tuple[str, Tls]:
    """Return the URL without its TLS parameters, and these. Raises ConfigurationError for invalid parameters."""
    parts = split_url(url)
    given = dict(parse_qsl(parts.query))
    own = {name: given.pop(name) for name in _TLS if name in given}
    if (mechanism := own.get("auth_mechanism", "external").lower()) not in ("external", "plain"):
        raise ConfigurationError(f"the AMQP URL has auth_mechanism={mechanism}; it must be external or plain")
    tls = Tls(
        own.get("cacertfile"),
        own.get("certfile"),
        own.get("keyfile"),
        own.get("server_name_indication"),
        mechanism == "external" and "auth_mechanism" in own,
    )
    if own and parts.scheme != "amqps":
        raise ConfigurationError("the AMQP URL has TLS parameters, so it must begin with amqps://")
    return urlunsplit(parts._replace(query=urlencode(given))), tls


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return a context that verifies RabbitMQ's certificate and name. Raises ConfigurationError, naming the file."""
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except OSError as error:
        raise ConfigurationError(f"cannot read the CA certificates in {tls.ca_file}: {_why(error)}") from error
    if tls.certificate is not None:
        try:
            context.load_cert_chain(tls.certificate, tls.key)
        except OSError as error:
            files = " and ".join(filter(None, (tls.certificate, tls.key)))
            raise ConfigurationError(f"cannot use the client certificate in {files}: {_why(error)}") from error
    elif tls.key is not None or tls.external:
        raise ConfigurationError("the client certificate is missing: set FLUFFLE_TLS_CERT")
    return context


def completed(url: str, *, password: str | None = None, parameters: Mapping[str, str] | None = None) -> str:
    """Add a password, if the URL has a user without one, and query parameters that the URL does not have."""
    parts = split_url(url)
    if password is not None and parts.username and parts.password is None:
        host = parts.netloc.rpartition("@")[2]
        parts = parts._replace(netloc=f"{parts.username}:{quote(password, safe='')}@{host}")
    query = {**(parameters or {}), **dict(parse_qsl(parts.query))}
    return urlunsplit(parts._replace(query=urlencode(query)))


def of_user(url: str, user: str, password: str) -> str:
    """Return the URL for another user, without TLS parameters: each user has separate certificate files."""
    parts = split_url(split_off_tls(url)[0])
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{host}"))


def vhost(url: str) -> str:
    """Return the virtual host of a URL."""
    return unquote(split_url(url).path.removeprefix("/")) or "/"


def user_of(url: str) -> str | None:
    """Return the RabbitMQ user of a URL; None when only the certificate names the user."""
    parts = split_url(url)
    if parts.username:
        return unquote(parts.username)
    return None if split_off_tls(url)[1].external else "guest"


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def certificate_error(error: BaseException, where: object) -> CertificateRefused | None:
    """Return the error to raise when one side did not accept the other's certificate; None for other errors."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateRefused(f"the certificate of RabbitMQ at {where} is not accepted: {error.verify_message}")
    if alert := _CERTIFICATE_ALERT.search(str(error)):
        why = alert[1].replace("_", " ").lower()
        return CertificateRefused(f"RabbitMQ at {where} does not accept the client certificate: {why}")
    return None
