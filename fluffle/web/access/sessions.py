"""Sessions that a logout ended, kept in a file until their cookies expire."""

from contextlib import suppress
from pathlib import Path

from broker.errors import ConfigurationError
from broker.secure_files import make_private_folder, write_private


class EndedSessions:
    """The ids of ended sessions. Several web pages with one state folder share the file."""

    def __init__(self, path: Path | None = None) -> None:
        """Read the file. Without a path, sessions stay in memory. Raises ConfigurationError for an invalid file."""
        self._path = path
        self._expiry: dict[str, float] = {}
        self._read_at: tuple[int, int] | None = None  # modification time and size of the file when it was read
        try:
            self._read()
        except (OSError, ValueError) as error:
            problem = f"cannot read the list of logged-out sessions in {path}: {error}. Repair the file"
            raise ConfigurationError(f"{problem}. If you delete it, logged-out sessions are valid again") from error

    def __contains__(self, session: str) -> bool:
        with suppress(OSError, ValueError):  # the sessions read before are enough
            self._read()
        return session in self._expiry

    def add(self, session: str, *, now: float, lasts: float) -> None:
        """End a session whose cookie is valid for at most `lasts` more seconds. Raises OSError."""
        self._expiry = {known: expiry for known, expiry in self._expiry.items() if expiry > now}
        self._expiry[session] = now + lasts
        if self._path is not None:
            make_private_folder(self._path.parent)
            write_private(self._path, "".join(f"{known} {expiry:.0f}\n" for known, expiry in self._expiry.items()))

    def _read(self) -> None:
        if self._path is None or not self._path.exists():
            return
        state = self._path.stat()
        read_at = state.st_mtime_ns, state.st_size
        if read_at == self._read_at:
            return
        lines = self._path.read_text(encoding="ascii").splitlines()
        self._expiry |= {session: float(expiry) for session, expiry in (line.split() for line in lines)}
        self._read_at = read_at
