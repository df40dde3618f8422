"""The static files of the web page, and the tags that load them."""

from hashlib import sha256
from pathlib import Path

STATIC = Path(__file__).parent / "static"
RABBIT = (
    '<svg viewBox="0 0 32 32" class="rabbit" aria-hidden="true"><path d="M11 15C7 10 7 3 10 2c3 0 4 6 4 11M21 15c4-5 '
    '4-12 1-13c-3 0-4 6-4 11M7 22a9 8 0 1 1 18 0c0 5-4 8-9 8s-9-3-9-8Z"/><circle cx="12.5" cy="21" r="1.4"/>'
    '<circle cx="19.5" cy="21" r="1.4"/></svg>'
)


def head(prefix: str) -> str:
    """Return the tags for `<head>`. The addresses change with the content, so that browsers may cache it."""
    return "".join(
        tag.format(url=f"{prefix}/static/{name}?{sha256((STATIC / name).read_bytes()).hexdigest()[:12]}")
        for name, tag in (
            ("fluffle.js", '<script src="{url}"></script>'),
            ("fluffle.css", '<link rel="stylesheet" href="{url}">'),
        )
    )
