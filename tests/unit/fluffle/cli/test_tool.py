"""`fluffle tool` where there is no worker to ask."""

import pytest
from click.testing import CliRunner

from fluffle.cli.tool import tool


@pytest.mark.parametrize(
    ("identity", "told"),
    [
        ({}, "FLUFFLE_TOOLS is not set: `fluffle tool` works only in a command that `fluffle worker --exec` runs"),
        ({"FLUFFLE_MESSAGE_ID": "m-1"}, "a command that answers a message has no tools; tools are for tasks"),
        ({"FLUFFLE_TASK_ID": "t-1"}, "this LLM may not use tools: allow them with `fluffle worker --tools`"),
    ],
)
def test_a_command_without_tools_gets_the_reason(identity: dict[str, str], told: str) -> None:
    nothing = dict.fromkeys(("FLUFFLE_TOOLS", "FLUFFLE_MESSAGE_ID", "FLUFFLE_TASK_ID"))
    done = CliRunner().invoke(tool, ["read", "facts"], env={**nothing, **identity})
    assert (done.exit_code, done.output) == (1, f"Error: {told}\n")
