"""`rabbitmqctl` on a private node, for alarms and closed connections."""

import os
import subprocess

from broker.node.private_node import PrivateNode
from broker.node.record import NodeRecord
from broker.node.server import find_server


def rabbitmqctl(node: PrivateNode, *command: str) -> str:
    """Run `rabbitmqctl COMMAND` on that node and return what it prints."""
    record = NodeRecord.load(node.folder / "node.json")
    assert record is not None
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
    done = subprocess.run(
        [find_server().with_name("rabbitmqctl"), "--quiet", "--node", f"{record.name}@localhost", *command],
        env=inherited
        | {
            "HOME": str(node.folder),  # of the Erlang cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(record.epmd_port),
            "RABBITMQ_CONF_ENV_FILE": str(node.folder / "rabbitmq-env.conf"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"rabbitmqctl {' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout
