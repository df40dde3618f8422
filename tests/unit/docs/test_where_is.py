"""The questions of where_is.toml name files that exist."""

import tomllib

from tests.support.processes import ROOT

QUESTIONS = tomllib.loads((ROOT / "tests/unit/docs/where_is.toml").read_text(encoding="utf-8"))["questions"]


def test_every_answer_is_a_file() -> None:
    assert len(QUESTIONS) >= 30
    assert [path for path in QUESTIONS.values() if not (ROOT / path).is_file()] == []
