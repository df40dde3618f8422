"""Who may come in, and as what: tokens as Jupyter prints them, or a file of passwords.

A session is a signed cookie. It proves the credential that it was given for, so it ends when the token changes, or
when the line of the password file does.
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
    """What a visitor may do: an operator everything, a viewer only look."""

    OPERATOR = "operator"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who came in. `session` is the id of the login: the same for all pages of one browser."""

    name: str
    role: Role
    session: str

    @property
    def may_change(self) -> bool:
        """Whether this visitor may do more than look."""
        return self.role is Role.OPERATOR


class Credentials(Protocol):
    """What lets people in."""

    def entry(self, name: str, secret: str) -> tuple[str, Role] | None:
        """The name and role of who knows the secret; None for anybody else."""

    def proof(self, name: str, role: Role) -> str | None:
        """What changes as soon as that name no longer comes in as that role by the same secret; None: it does not."""


class Tokens:
    """One token for each role. The viewer's is made of the operator's, so there is one secret to keep."""

    def __init__(self, token: str) -> None:
        self._tokens = {Role.OPERATOR: token, Role.VIEWER: derived(token, "viewer")}

    def token(self, role: Role) -> str:
        """The token of that role."""
        return self._tokens[role]

    def entry(self, name: str, secret: str) -> tuple[str, Role] | None:
        """See Keys; the name does not matter."""
        for role, token in self._tokens.items():
            if hmac.compare_digest(token.encode(), secret.encode()):
                return role.value, role
        return None

    def proof(self, name: str, role: Role) -> str | None:
        """See Keys."""
        return derived(self._tokens[role], "proof") if name == role.value else None


class Passwords:
    """A file with a line `NAME:ROLE:HASH` for each person; it is read at every look, so a change counts at once."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigurationError when the file cannot be read or a line is wrong."""
        self._path = path
        self._known: dict[str, tuple[Role, str]] = {}
        self._read_at: tuple[int, int, int] | None = None  # modification time, size and inode of what was read
        self._lines()

    def entry(self, name: str, secret: str) -> tuple[str, Role] | None:
        """See Keys. It takes as long for a name that nobody has."""
        role, hashed = self._lines().get(name, (Role.VIEWER, f"{_DUMMY}${_DUMMY}"))
        return (name, role) if _fits(secret, hashed) else None

    def proof(self, name: str, role: Role) -> str | None:
        """See Keys."""
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
    """No login: whoever reaches the page is the operator."""

    def entry(self, name: str, secret: str) -> tuple[str, Role] | None:
        """See Keys."""
        return Role.OPERATOR.value, Role.OPERATOR

    def proof(self, name: str, role: Role) -> str | None:
        """See Keys."""
        return "open"


class Authenticator:
    """Gives sessions to those who have a key, and knows them again."""

    def __init__(self, keys: Credentials, *, secret: str, ended: EndedSessions | None = None) -> None:
        """`secret` signs the sessions; `ended` are those that were ended by a logout."""
        self._keys = keys
        self._signer = URLSafeTimedSerializer(derived(secret, "session"), salt="fluffle")
        self._devices = URLSafeTimedSerializer(derived(secret, "device"), salt="fluffle")
        self._ended = ended or EndedSessions()

    @property
    def asks_for_name(self) -> bool:
        """Whether people come in by name and password, not by a token."""
        return isinstance(self._keys, Passwords)

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked for anything."""
        return isinstance(self._keys, NoLogin)

    def enter(self, name: str, secret: str) -> str | None:
        """A session for who knows the secret, as a cookie; None for anybody else. May take 50 ms of computing."""
        entry = self._keys.entry(name, secret)
        if entry is None:
            return None
        known, role = entry
        claims = [known, role.value, secrets.token_urlsafe(12), self._keys.proof(known, role)]
        return str(self._signer.dumps(claims))

    def visitor(self, cookie: str | None) -> Visitor | None:
        """Whose session the cookie is; None when it is nobody's, or no longer."""
        if self.is_open:
            return Visitor(Role.OPERATOR.value, Role.OPERATOR, "open")
        try:
            name, role, session, proof = self._signer.loads(cookie or "", max_age=SESSION_SECONDS)
            if proof is None or self._keys.proof(name, Role(role)) != proof:
                return None
        except (BadSignature, ValueError, TypeError, ConfigurationError):  # the last: no password file at the moment
            return None
        return None if session in self._ended else Visitor(name, Role(role), session)

    def leave(self, visitor: Visitor, now: float) -> None:
        """End the session of a visitor, on every device that has its cookie. Raises OSError."""
        if not self.is_open:
            self._ended.add(visitor.session, now=now, lasts=SESSION_SECONDS)

    def known_device(self) -> str:
        """A cookie by which a browser is known again, for one from which somebody has logged in."""
        return str(self._devices.dumps(secrets.token_urlsafe(12)))

    def device(self, cookie: str | None) -> str | None:
        """The id of a browser from which somebody has logged in before; None for any other."""
        try:
            return str(self._devices.loads(cookie or "", max_age=DEVICE_SECONDS))
        except BadSignature:
            return None


def _reason(error: OSError | UnicodeDecodeError) -> str:
    """The reason alone, where a file is named already."""
    return getattr(error, "strerror", None) or str(error)


def session_cookie(header: str) -> str | None:
    """The session among the cookies of a request."""
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel else None


def derived(secret: str, purpose: str) -> str:
    """Another secret made of this one, from which this one cannot be found: 32 hexadecimal digits."""
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).hexdigest()[:32]


def kept_secret(path: Path) -> str:
    """The secret in that file, made at the first look; only its owner may read it. Raises ConfigurationError."""
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
    raise ConfigurationError(f"{path} is empty: remove it, and a new secret is made")


def set_password(path: Path, name: str, role: Role, password: str) -> None:
    """Add a person to a password file, or replace the line that they have. Raises ConfigurationError."""
    if path.exists():
        Passwords(path)  # one that is wrong is not written over
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


def _fits(password: str, hashed: str) -> bool:
    salt, _, digest = hashed.partition("$")
    try:
        return hmac.compare_digest(_scrypt(password, b64decode(salt)), b64decode(digest))
    except ValueError:
        return False


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT)
