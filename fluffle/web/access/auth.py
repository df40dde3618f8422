"""Authentication: tokens, as Jupyter prints them, or a password file; and sessions.

A session is a signed cookie. It contains a proof of the credential, so it ends when the token or the line of the
password file changes.
"""

import hashlib
import hmac
import os
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass
from enum import StrEnum
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Protocol

from itsdangerous import BadSignature, URLSafeTimedSerializer

from broker.errors import ConfigurationError
from broker.secure_files import make_private_folder
from fluffle.web.access.sessions import EndedSessions

COOKIE, DEVICE_COOKIE = "fluffle_session", "fluffle_device"
SESSION_SECONDS, DEVICE_SECONDS = 30 * 86_400, 365 * 86_400  # seconds

_SCRYPT = {"n": 2**14, "r": 8, "p": 1, "dklen": 32}
_DUMMY = "0" * 32


class Role(StrEnum):
    """The permissions of a visitor: an operator may do everything, a viewer may only look."""

    OPERATOR = "operator"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True)
class Visitor:
    """A visitor with a session. `session` is the id of the login, the same for all pages of one browser."""

    name: str
    role: Role
    session: str

    @property
    def may_change(self) -> bool:
        """Whether this visitor may change anything."""
        return self.role is Role.OPERATOR


class Credentials(Protocol):
    """The credentials that the web page accepts."""

    def entry(self, name: str, secret: str) -> tuple[str, Role] | None:
        """Return the name and role for a secret; None if it is wrong."""

    def proof(self, name: str, role: Role) -> str | None:
        """Return a value that changes when the secret of the name changes; None if the name no longer has the role."""


class Tokens:
    """One token for each role. The viewer's is derived from the operator's, so there is one secret to keep."""

    def __init__(self, token: str) -> None:
        self._tokens = {Role.OPERATOR: token, Role.VIEWER: derived(token, "viewer")}

    def token(self, role: Role) -> str:
        """Return the token of a role."""
        return self._tokens[role]

    def entry(self, name: str, secret: str) -> tuple[str, Role] | None:
        """See Credentials; the name does not matter."""
        for role, token in self._tokens.items():
            if hmac.compare_digest(token.encode(), secret.encode()):
                return role.value, role
        return None

    def proof(self, name: str, role: Role) -> str | None:
        """See Credentials."""
        return derived(self._tokens[role], "proof") if name == role.value else None


class Passwords:
    """A file with a line `NAME:ROLE:HASH` for each person. A change of the file takes effect at once."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises ConfigurationError if it cannot be read or a line is invalid."""
        self._path = path
        self._known: dict[str, tuple[Role, str]] = {}
        self._read_at: tuple[int, int, int] | None = None  # modification time, size and inode of what was read
        self._lines()

    def entry(self, name: str, secret: str) -> tuple[str, Role] | None:
        """See Credentials. An unknown name takes as long as a known one."""
        role, hashed = self._lines().get(name, (Role.VIEWER, f"{_DUMMY}${_DUMMY}"))
        return (name, role) if _matches(secret, hashed) else None

    def proof(self, name: str, role: Role) -> str | None:
        """See Credentials."""
        known = self._lines().get(name)
        return derived(known[1], "proof") if known and known[0] is role else None

    def _lines(self) -> dict[str, tuple[Role, str]]:
        try:
            state = self._path.stat()
            read_at = state.st_mtime_ns, state.st_size, state.st_ino
            if read_at == self._read_at:
                return self._known
            text = self._path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot read the password file {self._path}: {_reason(error)}") from error
        found = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                name, role, hashed = line.strip().split(":")
                found[name] = (Role(role), hashed)
            except ValueError as error:
                raise ConfigurationError(
                    f"{self._path}, line {number}: expected NAME:operator:HASH or NAME:viewer:HASH, "
                    "as `fluffle web passwd FILE NAME` writes it"
                ) from error
        self._known, self._read_at = found, read_at
        return found


class NoLogin:
    """No login: every visitor is the operator."""

    def entry(self, name: str, secret: str) -> tuple[str, Role] | None:
        """See Credentials."""
        return Role.OPERATOR.value, Role.OPERATOR

    def proof(self, name: str, role: Role) -> str | None:
        """See Credentials."""
        return "open"


class Authenticator:
    """Creates sessions for valid credentials, and verifies them."""

    def __init__(self, credentials: Credentials, *, secret: str, ended: EndedSessions | None = None) -> None:
        """`secret` signs the sessions; `ended` are the sessions that a logout ended."""
        self._credentials = credentials
        self._signer = URLSafeTimedSerializer(derived(secret, "session"), salt="fluffle")
        self._devices = URLSafeTimedSerializer(derived(secret, "device"), salt="fluffle")
        self._ended = ended or EndedSessions()

    @property
    def asks_for_name(self) -> bool:
        """Whether the login asks for name and password, not for a token."""
        return isinstance(self._credentials, Passwords)

    @property
    def is_open(self) -> bool:
        """Whether no login is needed."""
        return isinstance(self._credentials, NoLogin)

    def enter(self, name: str, secret: str) -> str | None:
        """Return a session cookie for a right secret; None for a wrong one. May take 50 ms of CPU."""
        entry = self._credentials.entry(name, secret)
        if entry is None:
            return None
        known, role = entry
        claims = [known, role.value, secrets.token_urlsafe(12), self._credentials.proof(known, role)]
        return str(self._signer.dumps(claims))

    def visitor(self, cookie: str | None) -> Visitor | None:
        """Return the visitor of a session cookie; None if the session is invalid or has ended."""
        if self.is_open:
            return Visitor(Role.OPERATOR.value, Role.OPERATOR, "open")
        try:
            name, role, session, proof = self._signer.loads(cookie or "", max_age=SESSION_SECONDS)
            if proof is None or self._credentials.proof(name, Role(role)) != proof:
                return None
        except (
            BadSignature,
            ValueError,
            TypeError,
            ConfigurationError,
        ):  # the last: no password file
            return None
        return None if session in self._ended else Visitor(name, Role(role), session)

    def leave(self, visitor: Visitor, now: float) -> None:
        """End the session of a visitor, on every device with its cookie. Raises OSError."""
        if not self.is_open:
            self._ended.add(visitor.session, now=now, lasts=SESSION_SECONDS)

    def known_device(self) -> str:
        """Return a new cookie that marks a browser after a successful login."""
        return str(self._devices.dumps(secrets.token_urlsafe(12)))

    def device(self, cookie: str | None) -> str | None:
        """Return the id of a browser with a cookie of `known_device`; None for any other."""
        try:
            return str(self._devices.loads(cookie or "", max_age=DEVICE_SECONDS))
        except BadSignature:
            return None


def _reason(error: OSError | UnicodeDecodeError) -> str:
    """Return the reason without the file name."""
    return getattr(error, "strerror", None) or str(error)


def session_cookie(header: str) -> str | None:
    """Return the session cookie of a request."""
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel else None


def derived(secret: str, purpose: str) -> str:
    """Derive another secret for `purpose`, 32 hexadecimal digits. The original secret cannot be computed from it."""
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).hexdigest()[:32]


def kept_secret(path: Path) -> str:
    """Return the secret in a file, created at the first call and readable only by its owner.

    Raises ConfigurationError when the file cannot be read or written.
    """
    try:
        make_private_folder(path.parent)
        try:
            with open(path, "x", opener=_for_owner) as file:
                file.write(secrets.token_hex(16))
        except FileExistsError:
            pass
        if secret := path.read_text(encoding="ascii").strip():
            return secret
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot keep the web page's secret in {path}: {_reason(error)}") from error
    raise ConfigurationError(f"{path} is empty: remove the file to create a new secret")


def set_password(path: Path, name: str, role: Role, password: str) -> None:
    """Add a person to a password file, or replace their line. Raises ConfigurationError."""
    if path.exists():
        Passwords(path)  # an invalid file is not overwritten
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    else:
        lines = []
    salt = secrets.token_bytes(16)
    hashed = f"{b64encode(salt).decode()}${b64encode(_scrypt(password, salt)).decode()}"
    lines = [line for line in lines if line.partition(":")[0] != name] + [f"{name}:{role}:{hashed}"]
    beside = path.with_name(f"{path.name}.new")
    try:
        beside.unlink(missing_ok=True)
        with open(beside, "x", encoding="utf-8", opener=_for_owner) as file:
            file.write("\n".join(lines) + "\n")
        beside.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _matches(password: str, hashed: str) -> bool:
    salt, _, digest = hashed.partition("$")
    try:
        return hmac.compare_digest(_scrypt(password, b64decode(salt)), b64decode(digest))
    except ValueError:
        return False


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT)
