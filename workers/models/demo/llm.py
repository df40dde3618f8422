"""The offline demo model: an extractive summariser, which copies sentences and counts words."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from broker.mappings import without_none
from workers.models.base import Answer, Job, Message, ModelError, TextCallback
from workers.models.demo.extract import best_sentences, key_terms, plain, read_prose, repetitions, terms
from workers.models.output import check_schema, validate_output
from workers.models.pricing import FREE
from workers.models.protocols import Properties
from workers.tools.toolbox import Toolbox

NAME = "demo (offline extractive summariser)"
FOOTER = f"— {NAME}"
KEY_TERMS = 8
ENOUGH = 0.5  # the share of sentences and key terms of a draft with which a review passes

NOTHING_TO_COPY = (
    "I copy sentences and cannot answer questions of my own knowledge. Send me a text and I pick its most important "
    "sentences; then ask about it and I pick those that have words of your question."
)

_SHOWN = 3
_TEXT = 4  # a message with this many sentences is summarised
_TEXT_KEYS = ("text", "texts", "sources")
_TERMS = re.compile("term|tag|topic|keyword", re.IGNORECASE)


class DemoLLM:
    """Summarises the texts in the inputs of a job, else those in the results of its dependencies, else its description.

    Skill `review`  measures a text against its sources: length, sentences found word for word, missing key terms.
                    The text is the last result, else the first input; all other texts are sources.
    Skill `edit`,   or several results without inputs: merges the sentences of all texts, each text under its title,
                    without repetitions.
    Otherwise       selects the most important sentences.

    A long message is summarised too. A short one is a question: the answer consists of sentences with the same words
    from earlier messages of others, or says that there are none.

    The answer is Markdown and ends with the name of the model. With an output schema, properties of type string hold
    the Markdown; arrays hold the sentences, or the key terms, depending on their names; an enum gets the value whose
    words are most frequent in the texts. For a review, a number holds the share of sentences and key terms that were
    found, and a boolean whether the share is high enough; a text without sources passes.
    """

    @property
    def model(self) -> str:
        """The name of the demo model."""
        return NAME

    @property
    def properties(self) -> Properties:
        """It costs nothing."""
        return Properties(price=FREE)

    async def run(self, job: Job, progress: TextCallback, toolbox: Toolbox | None = None) -> Answer:
        """Return the extract. Raises ModelError `no_text` or `output_schema`, which are not retryable."""
        check_schema(job.output_schema)
        # A large text takes time: a thread leaves the event loop free for heartbeats.
        extract = await asyncio.to_thread(_work, job)
        if job.output_schema is not None:
            return Answer(await _fill(job.output_schema, extract))
        for line in extract.lines:
            progress(line + "\n")
            await asyncio.sleep(0)  # allows a cancellation
        progress(f"\n{FOOTER}")
        return Answer("\n".join([*extract.lines, "", FOOTER]))


@dataclass(frozen=True)
class _Text:
    title: str
    sentences: list[str]
    headings: list[str]


@dataclass(frozen=True)
class _Extract:
    """Lines of Markdown, with their sentences and key terms.

    `words` counts the words of all texts. `score` is the result of a review, from 0 to 1; None without sources.
    """

    lines: list[str]
    sentences: list[str]
    key_terms: list[str]
    score: float | None = None
    is_review: bool = False
    words: Counter[str] = field(default_factory=Counter)


def _work(job: Job) -> _Extract:
    if job.message is not None:
        return _reply(job.message, job.conversation)
    given = list(_texts_in(job.inputs, "inputs"))
    results = [text for it in job.context for text in _texts_in(it.result, it.description)]
    if job.inputs is None and not job.context:
        given = list(_texts_in(job.description, "task"))
    if not given and not results:
        raise ModelError("no_text", "there is no sentence in what this task came with", retryable=False)
    sentences, _ = _together([*given, *results])
    words = Counter(word for sentence in sentences for word in terms(sentence))
    return replace(_as_asked(job.skills, given, results), words=words)


def _as_asked(skills: Sequence[str], given: Sequence[_Text], results: Sequence[_Text]) -> _Extract:
    if "review" in skills:
        draft, *sources = [*reversed(results), *given]
        return _review(draft, sources)
    if "edit" in skills or (len(results) > 1 and not given):
        return _merge([*given, *results])
    return _summarise(given or results)


def _reply(message: Message, conversation: Sequence[Message]) -> _Extract:
    """Summarise a long message, or find sentences of earlier messages for a short one."""
    texts = list(_texts_in(message.content, "message"))
    if len(_together(texts)[0]) >= _TEXT:
        return _summarise(texts)
    said = [it.content for it in conversation if it.sender != message.receiver]
    sentences, _ = _together([text for content in said for text in _texts_in(content, "message")])
    asked = set(terms(message.content))
    fitting = sorted((-len(asked & set(terms(sentence))), at) for at, sentence in enumerate(sentences))
    chosen = sorted(at for shared, at in fitting[:_SHOWN] if shared)
    found = [sentences[at] for at in chosen]
    return _Extract([f"- {it}" for it in found] or [NOTHING_TO_COPY], found, [])


def _texts_in(value: Any, title: str) -> Iterator[_Text]:
    """Yield the texts in a JSON value. In an object, `text`, `texts` and `sources` come before all other keys."""
    match value:
        case str():
            sentences, headings = read_prose("\n".join(it for it in value.splitlines() if it.strip() != FOOTER))
            if sentences:
                yield _Text(title, sentences, headings)
        case list():
            for number, item in enumerate(value, 1):
                yield from _texts_in(item, f"{title} {number}")
        case dict():
            title = str(value.get("title") or value.get("name") or title)
            for key in [it for it in _TEXT_KEYS if it in value] or value:
                yield from _texts_in(value[key], title if key in _TEXT_KEYS else key)


def _together(texts: Sequence[_Text]) -> tuple[list[str], list[str]]:
    """Return all sentences and all headings."""
    return [it for text in texts for it in text.sentences], [it for text in texts for it in text.headings]


def _summarise(texts: Sequence[_Text]) -> _Extract:
    sentences, headings = _together(texts)
    count = min(-(-len(sentences) // 3), max(3, len(sentences) // 10), 7)
    best = best_sentences(sentences, headings, count)
    return _Extract([f"- {it}" for it in best], best, key_terms(sentences, headings, KEY_TERMS))


def _merge(texts: Sequence[_Text]) -> _Extract:
    sentences, headings = _together(texts)
    is_repetition = iter(repetitions(sentences))
    lines: list[str] = []
    kept: list[str] = []
    for text in texts:
        new = [sentence for sentence in text.sentences if not next(is_repetition)]
        if new:
            lines += ["", f"## {text.title}", "", *(f"- {it}" for it in new)]
            kept += new
    return _Extract(lines[1:], kept, key_terms(sentences, headings, KEY_TERMS))


def _review(draft: _Text, sources: Sequence[_Text]) -> _Extract:
    longest = max(map(_length, draft.sentences))
    found = key_terms(draft.sentences, draft.headings, KEY_TERMS)
    lines = [
        f"Measured: {draft.title}",
        "",
        f"- Words: {_words(draft.sentences):,}; sentences: {len(draft.sentences):,}; longest: {longest:,} words",
        f"- Sentences that say the same as an earlier one: {sum(repetitions(draft.sentences)):,}",
    ]
    if not sources:
        remarks = [f"- Key terms: {', '.join(found)}", "- There is nothing to compare it with."]
        return _Extract([*lines, *remarks], draft.sentences, found, is_review=True)
    compared, score = _comparison(draft, sources)
    return _Extract([*lines, *compared], draft.sentences, found, score, is_review=True)


def _comparison(draft: _Text, sources: Sequence[_Text]) -> tuple[list[str], float]:
    """What a text has in common with its sources, and how much of what it should have: from 0 to 1."""
    sentences, headings = _together(sources)
    everything = f" {plain(' '.join(sentences))} "
    own = [sentence for sentence in draft.sentences if f" {plain(sentence)} " not in everything]
    known = set(terms(" ".join([*draft.sentences, *draft.headings])))
    wanted = key_terms(sentences, headings, KEY_TERMS)
    missing = [word for word in wanted if not known.issuperset(terms(word))]
    share = _words(draft.sentences) / _words(sentences)
    found = len(draft.sentences) - len(own) + len(wanted) - len(missing)
    score = found / (len(draft.sentences) + len(wanted))
    return [
        f"- Length against the sources: {share:.1%} of {_words(sentences):,} words",
        f"- Found word for word in the sources: {_of(draft.sentences, own)} sentences",
        *(f"- Not found: {sentence}" for sentence in own[:_SHOWN]),
        f"- Key terms of the sources that occur: {_of(wanted, missing)}",
        *([f"- Missing: {', '.join(missing)}"] if missing else []),
    ], score


def _words(sentences: Sequence[str]) -> int:
    return sum(map(_length, sentences))


def _length(sentence: str) -> int:
    return len(sentence.split())


def _of(everything: Sequence[str], lacking: Sequence[str]) -> str:
    return f"{len(everything) - len(lacking):,} of {len(everything):,}"


async def _fill(schema: Mapping[str, Any], extract: _Extract) -> Any:
    try:
        return await validate_output(_value("", schema, extract), dict(schema))
    except ModelError as error:
        message = f"the demo model fills strings, lists of strings and reviews only: {error.message}"
        raise ModelError("output_schema", message, retryable=False) from error


def _value(name: str, schema: Any, extract: _Extract) -> Any:
    """What the extract holds for a property of this name and schema; None if nothing."""
    match schema:
        case {"enum": [_, *_] as values}:
            return max(values, key=lambda value: sum(extract.words[word] for word in terms(str(value))))
        case {"type": "boolean"}:
            return (1.0 if extract.score is None else extract.score) >= ENOUGH if extract.is_review else None
        case {"type": "number"}:
            return None if extract.score is None else round(extract.score, 2)
        case {"type": "string"}:
            return "\n".join(extract.lines)
        case {"type": "array"}:
            return extract.key_terms if _TERMS.search(name) else extract.sentences
        case {"type": "object", "properties": {**properties}}:
            values = {key: _value(str(key), part, extract) for key, part in properties.items()}
            return without_none(values)
    return None
