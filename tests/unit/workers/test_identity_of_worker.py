"""As whom a worker may report."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from broker.errors import ConfigurationError
from workers.app import build_worker
from workers.models.factory import build_llm

REFUSED = pytest.raises(ConfigurationError, match="the user of the AMQP URL is ana, not atlas")


@pytest.mark.parametrize(
    ("require_identity", "user", "outcome"),
    [
        (True, "ana:x@", REFUSED),
        (True, "atlas:x@", nullcontext()),
        (False, "ana:x@", nullcontext()),
    ],
)
async def test_a_worker_with_the_user_of_another_name_is_a_configuration_error(
    require_identity: bool, user: str, outcome: AbstractContextManager[object], tmp_path: Path
) -> None:
    with outcome:
        build_worker(
            url=f"amqp://{user}h",
            name="atlas",
            llm=build_llm(model="demo", base_url=None, exec_command=None, handler=None),
            spool_dir=tmp_path,
            require_identity=require_identity,
        )
