"""Install the programs that the tests need, if they are missing: RabbitMQ and PostgreSQL."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from broker.errors import NodeError
from broker.node.install import ensure_rabbitmq


def has_postgresql() -> bool:
    """Return whether PostgreSQL's programs are on PATH or in Debian's folder."""
    return shutil.which("initdb") is not None or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def main() -> None:
    """Install missing programs as far as this user may; tests without their program are skipped with a reason."""
    try:
        ensure_rabbitmq(print)
    except NodeError as error:
        sys.exit(str(error))
    if has_postgresql():
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("PostgreSQL was not found. Installing Debian's package postgresql; its system service stays off.")
        subprocess.run([Path(__file__).with_name("apt-install"), "postgresql"], check=True)  # noqa: S603 - a script beside this one
    else:
        print(
            "PostgreSQL was not found, so the tests on it are left out. "
            "On Debian and Ubuntu it comes with: sudo apt-get install -y postgresql"
        )


if __name__ == "__main__":
    main()
