"""Install RabbitMQ on computers without it."""

import os
import shutil
import subprocess
from collections.abc import Callable

from broker.errors import NodeError
from broker.node.container import IMAGE, container_wanted, engine_answers
from broker.node.private_node import way_to_run
from broker.node.server import RabbitMQNotFound

Say = Callable[[str], None]

# Debian starts the service of an installed package, on the default ports. Only the programs are needed here.
_DEBIAN = """
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap "rm -f $policy" EXIT
    printf '#!/bin/sh\\nexit 101\\n' >$policy
    chmod 755 $policy
fi
apt-get update -qq || echo 'the package lists could not be refreshed' >&2
apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 rabbitmq-server
if [ -d /run/systemd/system ]; then systemctl disable -q rabbitmq-server; fi
"""

_COMMANDS = {
    "apt-get": "sudo apt-get install -y rabbitmq-server",
    "brew": "brew install rabbitmq",
    "dnf": "sudo dnf install -y rabbitmq-server",
    "zypper": "sudo zypper install -y rabbitmq-server",
    "pacman": "sudo pacman -S --noconfirm rabbitmq",
    "apk": "sudo apk add rabbitmq-server",
}


class InstallFailed(NodeError):
    """RabbitMQ could not be installed"""


def ensure_rabbitmq(say: Say) -> None:
    """Install RabbitMQ unless a private node can run already. Raises as `install_rabbitmq` does."""
    try:
        way_to_run()
    except RabbitMQNotFound:
        install_rabbitmq(say)


def install_rabbitmq(say: Say) -> None:
    """Install RabbitMQ with the system's package manager, or fetch its container image. Reports each step to `say`.

    Raises InstallFailed on failure, and RabbitMQNotFound with the command to run when the user lacks the rights.
    """
    become_root = _become_root()
    if shutil.which("apt-get") and become_root is not None and not container_wanted():
        say("RabbitMQ was not found. Installing Debian's package rabbitmq-server; its system service stays off.")
        _run([*become_root, "sh", "-ec", _DEBIAN])
    elif shutil.which("brew") and not container_wanted():
        say("RabbitMQ was not found. Installing it with Homebrew; its service stays off.")
        _run(["brew", "install", "rabbitmq"])
    elif engine_answers():
        say(f"RabbitMQ was not found. Fetching the container image {IMAGE}.")
        _run(["docker", "pull", IMAGE])
    else:
        raise RabbitMQNotFound(f"RabbitMQ was not found, and its installation needs more rights. {_advice()}")
    say("RabbitMQ is installed.")


def _become_root() -> list[str] | None:
    """Return the prefix of a command that runs as root; None when root needs a password."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:  # noqa: S607 - the user's sudo, wherever it is installed
        return ["sudo", "-n"]
    return None


def _run(command: list[str]) -> None:
    done = subprocess.run(  # noqa: S603 - no shell; the command is ours, and shown first
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        end = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise InstallFailed(f"RabbitMQ could not be installed. {_advice()} The last lines were:\n{end}")


def _advice() -> str:
    for manager, command in _COMMANDS.items():
        if shutil.which(manager):
            return f"Run this, then try again: {command}"
    return "See https://www.rabbitmq.com/docs/download, then try again."
