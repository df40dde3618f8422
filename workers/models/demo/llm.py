"""The offline demo model: an extractive summariser. It copies sentences and counts words; it writes nothing itself."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from broker.mappings import without_none
from workers.models.base import Answer, Job, Message, ModelError, Progress
from workers.models.demo.extract import best_sentences, key_terms, plain, read_prose, repetitions, terms
from workers.models.output import check_schema, validate_output
from workers.tools.toolbox import Toolbox

NAME = "demo (offline extractive summariser)"
FOOTER = f"— {NAME}"
KEY_TERMS = 8
ENOUGH = 0.5  # share of sentences and key terms of a draft that a review has to find

NOTHING_TO_COPY = (
    "I copy sentences and cannot answer questions of my own knowledge. Send me a text and I pick its most important "
    "sentences; then ask about it and I pick those that have words of your question."
)

_SHOWN = 3
_TEXT = 4  # sentences from which on a message is a text to be summarised
_TEXT_KEYS = ("text", "texts", "sources")
_TERMS = re.compile("term|tag|topic|keyword", re.IGNORECASE)


class DemoLLM:
    """Works on the texts in a job's inputs, else in the results it builds on; on its description if it has neither.

    Skill `review`  measures a text against its sources: length, sentences found word for word, key terms missed.
                    The text is the last result, else the first of the inputs; every other text is a source.
    Skill `edit`,   or several results and no text in the inputs: puts the sentences of all texts together, each
                    text under its title, without those that say the same as an earlier one.
    Anything else   picks the sentences that say most about the whole.

    A message that is a text is treated so, too. A shorter one is a question: the answer are the sentences of earlier
    messages of others that have words of it, or that there are none.

    The answer is Markdown that ends by saying what made it. With an output schema the properties of type string hold
    that Markdown, those of type array the sentences, or the key terms if they are named so. Of a list of values the one
    is taken whose words are found most often in the texts. A review gives the share of what it looks for that it finds
    as a number, and whether that is enough as true or false; a text that there is nothing to compare with passes.
    """

    @property
    def model(self) -> str:
        """What it is."""
        return NAME

    async def run(self, job: Job, progress: Progress, toolbox: Toolbox | None = None) -> Answer:
        """The extract. Raises ModelError `no_text` or `output_schema`; another attempt helps with neither."""
        check_schema(job.output_schema)
        # A large text takes a while; in a thread, so that the worker's heartbeats go on.
        extract = await asyncio.to_thread(_work, job)
        if job.output_schema is not None:
            return Answer(await _fill(job.output_schema, extract))
        for line in extract.lines:
            progress(line + "\n")
            await asyncio.sleep(0)  # a chance to be stopped
        progress(f"\n{FOOTER}")
        return Answer("\n".join([*extract.lines, "", FOOTER]))


@dataclass(frozen=True)
class _Text:
    title: str
    sentences: list[str]
    headings: list[str]


@dataclass(frozen=True)
class _Extract:
    """Lines of Markdown, and the sentences and key terms that they are about.

    `words` are all that was read. `score` is what a review found, from 0 to 1; None where there is nothing to compare.
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
    """An extract of the text that the message is, or of what was said before about its question."""
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
    """The texts in a JSON value: of an object, those under `text`, `texts` and `sources` if it has them, else all."""
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
    """All sentences and all headings."""
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
        told = [f"- Key terms: {', '.join(found)}", "- There is nothing to compare it with."]
        return _Extract([*lines, *told], draft.sentences, found, is_review=True)
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
