"""Report known vulnerabilities of the libraries in constraints.txt, if an index that lists them can be reached."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PIP_AUDIT = Path(sys.executable).with_name("pip-audit")
WITHIN = 300  # seconds


def main() -> int:
    """Return the exit code: 1 when a library has a known vulnerability."""
    options = ["--requirement", str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip", "--timeout", "10"]
    command = [str(PIP_AUDIT), *options, "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN)  # noqa: S603 - pip-audit itself
        libraries: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
        print(f"The libraries were not audited: pip-audit gave no answer ({type(error).__name__}).")
        return 0
    audited = [library for library in libraries if "vulns" in library]
    found = [(library, vulnerability) for library in audited for vulnerability in library["vulns"]]
    for library, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "none yet"
        print(f"{library['name']} {library['version']}: {vulnerability['id']}, fixed in: {fixed}")
    if len(audited) < len(libraries):
        print(
            f"{len(libraries) - len(audited)} of {len(libraries)} libraries were not audited: no index here knows them."
        )
    print(f"{len(audited)} libraries were audited, {len(found)} known vulnerabilities.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
