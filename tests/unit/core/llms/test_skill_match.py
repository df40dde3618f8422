"""Skills suggested from a task's text."""

import pytest

from coordinator.core.llms.skill_match import Corpus, suggest_skills

CORPUS = Corpus(
    {
        "python": "writes and reviews Python code, tests, scripts",
        "law": "contracts, terms and conditions, legal opinions",
        "summarise": "summaries of long texts and meetings",
        "translate": "translates between German, French and English",
    }
)


@pytest.mark.parametrize(
    ("text", "skills"),
    [
        ("Summarize the minutes of yesterday's meeting", ["summarise"]),
        ("Fix the failing unit test in this script", ["python"]),
        ("Is clause 4 of this contract enforceable?", ["law"]),
        ("TRANSLATE this letter into French", ["translate"]),
        ("Wriet a pyhton scritp", ["python"]),
    ],
)
def test_a_task_gets_the_skill_that_its_text_is_about(text: str, skills: list[str]) -> None:
    assert suggest_skills(text, CORPUS) == skills


@pytest.mark.parametrize("text", ["", "Hello there, how are you?", "Plan the office party for Friday", "12345"])
def test_a_text_about_nothing_that_anyone_can_gets_no_skill(text: str) -> None:
    assert suggest_skills(text, CORPUS) == []


def test_the_threshold_decides_how_similar_a_text_must_be() -> None:
    text = "Fix the failing unit test in this script"
    assert suggest_skills(text, CORPUS, threshold=0.5) == []


def test_without_any_description_nothing_is_suggested() -> None:
    assert suggest_skills("Translate this", Corpus({})) == []


def test_similarities_are_cosines_in_order() -> None:
    similar = CORPUS.similarities("translates between German, French and English")
    assert [0 <= value <= 1 for value, _ in similar] == [True] * 4
    assert similar == sorted(similar, key=lambda scored: -scored[0])
    assert similar[0][1] == "translate"
