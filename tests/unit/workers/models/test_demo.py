"""The demo model copies the sentences that matter, puts texts together, and measures a text against its sources."""

import asyncio
import random
from typing import Any

import pytest

from broker.protocol.assignments import Dependency
from broker.protocol.status import Status
from workers.models.base import Answer, Job, ModelError
from workers.models.demo.extract import best_sentences, key_terms, read_prose, repetitions, split_sentences
from workers.models.demo.llm import FOOTER, DemoLLM

README = """
# Burrow

[![build](https://example.com/badge.svg)](https://example.com/build)

Burrow is a [message broker](https://example.com/broker) for rabbits. It keeps every message on disk
until a rabbit has confirmed it. Rabbits that are away find their messages when they come back.

## Install

```sh
pip install burrow  # installs the broker of messages for rabbits
```

| option | meaning |
|---|---|
| `--disk` | where the broker keeps messages |

Run `burrow start` and a broker listens on port 5672. The weather was pleasant that day.

- A message is delivered at least once to a rabbit.
- Carrots are not included.
"""


def answer(**job: Any) -> Answer:
    return asyncio.run(DemoLLM().run(Job("t-1", 1, **{"description": "Summarise", **job}), lambda text: None))


def result(name: str, text: Any) -> Dependency:
    return Dependency(id=name, description=f"Summarise {name}", status=Status.COMPLETED, result=text)


def bullets(text: str) -> list[str]:
    return [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")]


def test_prose_is_read_without_code_tables_links_and_badges() -> None:
    sentences, headings = read_prose(README)
    assert headings == ["Burrow", "Install"]
    assert sentences == [
        "Burrow is a message broker for rabbits.",
        "It keeps every message on disk until a rabbit has confirmed it.",
        "Rabbits that are away find their messages when they come back.",
        "Run `burrow start` and a broker listens on port 5672.",
        "The weather was pleasant that day.",
        "A message is delivered at least once to a rabbit.",
        "Carrots are not included.",
    ]


@pytest.mark.parametrize(
    ("block", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Use it, e.g. Here. Dr. J. Smith did.", ["Use it, e.g. Here.", "Dr. J. Smith did."]),
        ("Version 3.11 is out. It is fast.", ["Version 3.11 is out.", "It is fast."]),
        ('He said "stop." Then he left.', ['He said "stop."', "Then he left."]),
        ("It ends... and goes on.", ["It ends... and goes on."]),
        ("第一句。第二句！", ["第一句。", "第二句！"]),  # noqa: RUF001 - Chinese punctuation
        ("", []),
    ],
)
def test_sentences_are_split_where_they_end(block: str, sentences: list[str]) -> None:
    assert split_sentences(block) == sentences


def test_a_log_is_read_line_by_line() -> None:
    log = "\n".join(f"2026-01-0{day} INFO worker started with {day} slots and went on" for day in range(1, 10))
    assert read_prose(log)[0] == log.splitlines()


def test_a_file_of_nothing_but_code_is_read_line_by_line() -> None:
    assert read_prose("```\nalpha = 1\n```")[0] == ["alpha = 1"]


def test_a_summary_consists_of_the_important_sentences_in_their_order() -> None:
    sentences, headings = read_prose(README)
    best = best_sentences(sentences, headings, 3)
    assert best == sorted(best, key=sentences.index)
    assert "Burrow is a message broker for rabbits." in best
    assert not {"The weather was pleasant that day.", "Carrots are not included."} & set(best)


def test_a_repetition_of_a_chosen_sentence_is_not_chosen() -> None:
    said = "The broker keeps every message of a rabbit on disk."
    other = "A rabbit that is away finds each message at the broker later."
    assert best_sentences([said, said, other, "Carrots are orange."], [], 2) == [said, other]


def test_terms_of_the_headings_have_more_weight() -> None:
    foxes, owls = "Foxes eat hens in the dark wood at night.", "Owls eat mice in the dark wood at night."
    assert best_sentences([foxes, owls], [], 1) == [foxes]
    assert best_sentences([foxes, owls], ["Owls"], 1) == [owls]


def test_a_whole_sentence_is_preferred_to_a_fragment() -> None:
    lead_in, whole = "Messages for rabbits:", "A broker keeps messages for rabbits until they come."
    assert best_sentences([lead_in, whole, "Messages wait.", "Rabbits wait."], [], 1) == [whole]
    list_item, whole = "Broker, messages, rabbits", "Rabbits read messages from the broker every morning."
    assert best_sentences([list_item, "The broker keeps messages.", whole, "Rabbits trust it."], [], 1) == [whole]


def test_key_terms_are_the_words_a_text_is_about() -> None:
    sentences, headings = read_prose(README)
    terms = key_terms(sentences, headings, 4)
    assert {"burrow", "broker"} <= set(terms)
    assert not {"the", "and", "that", "every"} & set(terms)


def test_repetitions_are_found_in_another_order_of_words() -> None:
    assert repetitions(
        [
            "Rabbits eat carrots in the garden.",
            "Carrots: the rabbits eat in the garden.",
            "Foxes eat rabbits.",
            "!",
            "!",
        ]
    ) == [False, True, False, False, True]


def test_a_large_text_is_summarised_by_as_few_sentences() -> None:
    dice = random.Random(7)
    words = ["".join(dice.choices("abcdefghijklmnoprstuvwyz", k=dice.randint(3, 9))) for _ in range(3000)]
    paragraphs = [
        " ".join(" ".join(dice.choices(words, k=14)).capitalize() + "." for _ in range(5)) for _ in range(180)
    ]
    text = "\n\n".join(paragraphs)
    assert len(text) > 80_000
    sentences, headings = read_prose(text)
    assert len(sentences) == 5 * 180
    assert len(best_sentences(sentences, headings, 7)) == 7


def test_an_answer_ends_with_the_name_of_the_model() -> None:
    assert DemoLLM().model == "demo (offline extractive summariser)"
    assert answer(inputs={"text": README}).result.endswith(f"\n\n{FOOTER}")


def test_the_pieces_of_progress_are_the_answer() -> None:
    pieces: list[str] = []
    done = asyncio.run(DemoLLM().run(Job("t", 1, "d", inputs=README), pieces.append))
    assert "".join(pieces) == done.result
    assert len(pieces) > 2


@pytest.mark.parametrize(
    "inputs",
    ["One fox. ", {"text": "One fox."}, {"texts": ["One fox."]}, {"a": {"b": ["One fox."]}}, [{"text": "One fox."}]],
)
def test_texts_are_found_wherever_they_are_in_the_inputs(inputs: Any) -> None:
    assert bullets(answer(inputs=inputs, context=(result("a", "Ignored."),)).result) == ["One fox."]


def test_values_beside_a_named_text_are_not_read() -> None:
    assert bullets(answer(inputs={"text": "One fox.", "language": "en", "limit": 3}).result) == ["One fox."]


def test_without_inputs_it_reads_the_results_of_dependencies_or_the_description() -> None:
    assert bullets(answer(context=(result("a", "One fox."),)).result) == ["One fox."]
    assert bullets(answer(description="Just this.").result) == ["Just this."]


@pytest.mark.parametrize("text", ["", " \n ", "!!!"])
def test_a_task_without_a_sentence_fails_for_good(text: str) -> None:
    with pytest.raises(ModelError) as caught:
        answer(description="Summarise the empty file.", inputs={"text": text})
    assert (caught.value.type, caught.value.retryable) == ("no_text", False)


def test_several_results_are_put_together_under_their_titles_without_repetitions() -> None:
    text = answer(
        context=(result("A", f"- Rabbits dig burrows.\n\n{FOOTER}"), result("B", "Rabbits dig burrows. Foxes wait."))
    ).result
    assert text == f"## Summarise A\n\n- Rabbits dig burrows.\n\n## Summarise B\n\n- Foxes wait.\n\n{FOOTER}"


def test_the_skill_edit_puts_inputs_together_too() -> None:
    text = answer(skills=("edit",), inputs=[{"title": "Farm", "text": "A cow."}, {"title": "Den", "text": "A fox."}])
    assert text.result.startswith("## Farm\n\n- A cow.\n\n## Den\n\n- A fox.")


def test_a_review_measures_the_last_result_against_all_other_texts() -> None:
    source = "Rabbits dig burrows. Foxes wait outside. Owls sleep."
    draft = f"- Rabbits dig burrows.\n- Rabbits dig burrows.\n- Bears dance.\n\n{FOOTER}"
    lines = bullets(answer(skills=("review",), inputs={"sources": [source]}, context=(result("edit", draft),)).result)
    assert lines == [
        "Words: 8; sentences: 3; longest: 3 words",
        "Sentences that say the same as an earlier one: 1",
        "Length against the sources: 100.0% of 8 words",
        "Found word for word in the sources: 2 of 3 sentences",
        "Not found: Bears dance.",
        "Key terms of the sources that occur: 3 of 8",
        "Missing: owls, sleep, foxes, outside, wait",
    ]


def test_a_review_takes_the_text_of_the_inputs_if_it_builds_on_no_result() -> None:
    text = answer(skills=("review",), inputs={"text": "Bears dance.", "sources": "Bears sing."}).result
    assert "Not found: Bears dance." in text
    assert "Missing: sing" in text


def test_a_review_without_sources_compares_nothing() -> None:
    text = answer(skills=("review",), inputs={"text": "Bears dance."}).result
    assert "Key terms: bears, dance" in text
    assert "sources" not in text


def test_an_output_schema_is_filled_with_text_sentences_and_key_terms() -> None:
    schema = {
        "type": "object",
        "properties": {
            "summary": {"type": "string"},
            "sentences": {"type": "array", "items": {"type": "string"}},
            "about": {"type": "object", "properties": {"key_terms": {"type": "array", "maxItems": 20}}},
            "score": {"type": "number"},
        },
        "required": ["summary"],
    }
    filled = answer(inputs="One fox runs.", output_schema=schema).result
    assert filled == {
        "summary": "- One fox runs.",
        "sentences": ["One fox runs."],
        "about": {"key_terms": ["fox", "runs"]},
    }


VERDICT = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "remarks": {"type": "string"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["approved", "remarks"],
}


def verdict(draft: str) -> Any:
    job = {"context": (result("draft", draft),), "inputs": {"text": README}, "skills": ("review",)}
    return answer(**job, output_schema=VERDICT).result


def test_a_review_approves_what_it_finds_in_the_sources_and_nothing_else() -> None:
    good = verdict(
        "Burrow is a message broker for rabbits. It keeps every message on disk until a rabbit has confirmed it."
    )
    assert good["approved"] is True
    assert 0.5 <= good["score"] <= 1
    assert "Found word for word in the sources: 2 of 2 sentences" in good["remarks"]
    bad = verdict("Foxes never sleep at night. Hedgehogs do.")
    assert (bad["approved"], bad["score"]) == (False, 0.0)
    assert "Not found: Foxes never sleep at night." in bad["remarks"]


def test_a_review_passes_a_text_without_sources() -> None:
    given = answer(context=(result("draft", "One fox runs."),), skills=("review",), output_schema=VERDICT).result
    assert (given["approved"], given.get("score")) == (True, None)
    assert "There is nothing to compare it with." in given["remarks"]


def test_a_vote_is_for_the_choice_that_the_texts_speak_of_most() -> None:
    ballot = {
        "type": "object",
        "properties": {
            "choice": {"type": "string", "enum": ["keep carrots", "keep messages"]},
            "reason": {"type": "string"},
        },
        "required": ["choice", "reason"],
    }
    given = answer(inputs={"text": README}, output_schema=ballot).result
    assert given["choice"] == "keep messages"
    assert "Burrow is a message broker for rabbits." in given["reason"]


def test_a_schema_that_asks_for_more_than_text_fails_for_good() -> None:
    schema = {"type": "object", "properties": {"score": {"type": "number"}}, "required": ["score"]}
    with pytest.raises(ModelError, match="'score' is a required property") as caught:
        answer(inputs="One fox.", output_schema=schema)
    assert (caught.value.type, caught.value.retryable) == ("output_schema", False)


def test_a_job_can_be_stopped_between_two_sentences() -> None:
    async def stop_at_the_first_piece() -> list[str]:
        pieces: list[str] = []
        task = asyncio.create_task(DemoLLM().run(Job("t", 1, "d", inputs=README), lambda it: taken(it)))

        def taken(piece: str) -> None:
            pieces.append(piece)
            task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        return pieces

    assert len(asyncio.run(stop_at_the_first_piece())) == 1
