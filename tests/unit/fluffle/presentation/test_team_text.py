"""The results of tasks for several LLMs, as people see them."""

from typing import Any

import pytest

from fluffle.presentation.team_text import sections


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (
            {"results": {"ana": "yes", "bea": {"n": 1}}, "failed": {"cem": "silent"}},
            [("Result of ana", "yes"), ("Result of bea", '{\n  "n": 1\n}'), ("LLMs without a result", "cem: silent")],
        ),
        (
            {
                "choice": "a",
                "decided_by": "person",
                "tally": {"a": 1.5, "b": 1.0},
                "ballots": [
                    {"llm": "ana", "weight": 1.5, "choice": "a", "reason": "better"},
                    {"llm": "bea", "weight": 1.0, "choice": "b", "reason": None},
                ],
            },
            [
                ("Choice by person", "a"),
                ("Votes", "a: 1.5, b: 1"),
                ("Ballots", "ana (counts 1.5): a: better\nbea: b"),
            ],
        ),
        (
            {
                "decision": "go",
                "judge": "judy",
                "ballots": [{"llm": "ana", "answer": "yes"}, {"llm": "bea", "answer": "- no\n\n- never\n"}],
            },
            [("Decision by judy", "go"), ("Ballots", "ana: yes\nbea:\n  - no\n\n  - never")],
        ),
        (
            {
                "result": "two",
                "steps": [{"llm": "ana", "result": "one"}, {"llm": "bea", "failed": "tired"}],
                "rounds": [
                    {"author": "ana", "reviewer": "rex", "approved": False, "remarks": "no", "score": 0.25},
                    {"author": "ana", "reviewer": "rex"},
                ],
            },
            [
                ("Result", "two"),
                ("Steps", "ana: one\nbea: tired"),
                ("Rounds", "1. of ana, sent back by rex (0.25): no\n2. of ana, no verdict by rex"),
            ],
        ),
    ],
)
def test_the_outcome_comes_first(result: dict[str, Any], shown: list[tuple[str, str]]) -> None:
    assert list(sections(result)) == shown
