"""nginx on 127.0.0.1 as a real rate limiter for each API key, in front of a model server.

with RateLimiter(folder, server.url) as limiter:
    ...  # a client at limiter.url
    assert [entry.status for entry in limiter.log()] == [200, 200, 429]
"""

import json
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from tests.support.processes import until

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

_CONFIG = """\
daemon off; worker_processes 1; pid nginx.pid; error_log error.log warn;
events {{ worker_connections 512; }}
http {{
  client_body_temp_path tmp/b; proxy_temp_path tmp/p; fastcgi_temp_path tmp/f; uwsgi_temp_path tmp/u;
  scgi_temp_path tmp/s;
  log_format entry escape=json '{{"ended":$msec,"took":$request_time,"key":"$http_authorization","status":$status}}';
  access_log access.log entry;
  limit_req_zone $http_authorization zone=key:1m rate={rate}r/s;
  limit_req_status 429;
  server {{
    listen 127.0.0.1:{port};
    location /v1/ {{
      limit_req zone=key burst={burst} nodelay;
      error_page 429 @limited;
      proxy_pass http://{upstream}; proxy_http_version 1.1; proxy_buffering off;
    }}
    location @limited {{
      internal; default_type application/json; add_header Retry-After {retry_after} always;
      return 429 '{{"error":{{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}}}';
    }}
  }}
}}
"""


class Entry(NamedTuple):
    """A request in the access log: when it began and ended, in seconds since 1970."""

    began: float
    ended: float
    status: int


class RateLimiter:
    """nginx with `rate` requests a second for each key, `burst` more at once, and `retry_after` seconds otherwise."""

    def __init__(self, folder: Path, url: str, *, rate: int = 2, burst: int = 3, retry_after: int = 2) -> None:
        self._folder = folder
        (folder / "tmp").mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        config = _CONFIG.format(
            port=self._port, upstream=urlsplit(url).netloc, rate=rate, burst=burst, retry_after=retry_after
        )
        (folder / "nginx.conf").write_text(config, encoding="utf-8")

    @property
    def url(self) -> str:
        """Return the base URL for clients."""
        return f"http://127.0.0.1:{self._port}/v1"

    def log(self) -> list[Entry]:
        """Return the requests that have ended, in the order of their beginning."""
        lines = (self._folder / "access.log").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        return sorted(Entry(entry["ended"] - entry["took"], entry["ended"], entry["status"]) for entry in entries)

    def __enter__(self) -> Self:
        assert NGINX is not None
        command = [NGINX, "-p", str(self._folder), "-c", "nginx.conf", "-e", "error.log"]
        self._process = subprocess.Popen(command)
        until(self._listens, "nginx listens")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0
