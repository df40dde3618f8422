"""Tasks that end when a file appears."""

import json
from pathlib import Path

from tests.support.shell import Shell


def waiting_task(shell: Shell, gate: Path, *options: str) -> str:
    """The id of a task that ends when the gate opens."""
    inputs = json.dumps({"until": str(gate), "answer": "through"})
    return shell("task", "submit", "wait", "--input", inputs, "--skills", "obey", *options).strip()
