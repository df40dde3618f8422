"""Finds the important sentences and terms of a text by counting words: no model, no network, always the same result.

A sentence is a vector of its terms weighted by tf-idf, with sentences in the place of documents. The sentences closest
to the centroid are the most important (Radev et al., "Centroid-based summarization of multiple documents", 2004); the
score of a sentence that repeats a chosen one is lowered (maximal marginal relevance, Carbonell and Goldstein, 1998).
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

Vector = dict[str, float]

SAME = 0.8
"""Two sentences that share this part of their terms count as repetitions."""

_WORD = re.compile(r"[^\W\d_](?:[\w'\u2019-]*\w)?")
_APOSTROPHE = re.compile(r"['\u2019]")
_BREAK = re.compile(r"(?<=[.!?])[\"'\u201d\u2019)\]]*\s+(?![a-z])|(?<=[\u3002\uff01\uff1f])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|approx|no|fig|dr|mr|mrs|ms|st|prof|inc|ltd|al)|\b[A-Z])\.$", re.IGNORECASE
)
_ENDS = (".", "!", "?", "\u3002", "\uff01", "\uff1f", '."', ".)", ".\u201d")
_LONGEST = 60
_COMMON_WORDS = """
    a about above after again all also an and any are as at be because been before being below between both but by
    can cannot could did do does doing don down during each either else even ever every few for from further get had
    has have having he her here hers him his how i if in into is it its itself just like made make many may me might
    more most much must my neither no nor not now of off on once one only or other our ours out over own per same
    she should since so some such than that the their theirs them then there these they this those through thus to
    too two under until up upon us use used uses using very via was we were what when where whether which while who
    whom whose why will with within without would yet you your yours
"""
_COMMON = frozenset(_COMMON_WORDS.split())


def read_prose(text: str) -> tuple[list[str], list[str]]:
    """Return the sentences and the headings of a Markdown or plain text, in order.

    Code, tables, HTML and images are left out; the words of a link stay. A text of only code or tables is read line by
    line.
    """
    sentences: list[str] = []
    headings: list[str] = []
    for kind, block in _blocks(text):
        if kind == "heading":
            headings.append(block)
        else:
            sentences.extend(split_sentences(block))
    return sentences or _lines(text), headings


def split_sentences(block: str) -> list[str]:
    """Return the sentences of a paragraph. A full stop after an abbreviation or an initial ends no sentence.

    A text that is too long for a sentence and does not end like one, such as a log, is split into lines.
    """
    pieces: list[str] = []
    start = 0
    for found in _BREAK.finditer(block):
        if not _ABBREVIATION.search(block, start, found.start()):
            pieces.append(block[start : found.end()].strip())
            start = found.end()
    pieces.append(block[start:].strip())
    sentences: list[str] = []
    for piece in filter(_WORD.search, pieces):
        is_list = len(piece.split()) > _LONGEST and not piece.endswith(_ENDS)
        sentences.extend(_lines(piece) if is_list else [" ".join(piece.split())])
    return sentences


def best_sentences(sentences: Sequence[str], headings: Sequence[str], count: int) -> list[str]:
    """Return the `count` most important sentences, in their order in the text."""
    vectors = _vectors(sentences)
    centroid = _centroid(vectors, headings)
    scores = [_dot(vector, centroid) * _form(text) for vector, text in zip(vectors, sentences, strict=True)]
    repeats = [0.0] * len(sentences)
    left = set(range(len(sentences)))
    while left and len(sentences) - len(left) < count:
        best = max(left, key=lambda at: (scores[at] * (1 - repeats[at]), -at))
        left.remove(best)
        for at in left:
            repeats[at] = max(repeats[at], _dot(vectors[best], vectors[at]))
    return [text for at, text in enumerate(sentences) if at not in left]


def key_terms(sentences: Sequence[str], headings: Sequence[str], count: int) -> list[str]:
    """Return the `count` words with the highest weights, highest first; fewer if there are fewer."""
    centroid = _centroid(_vectors(sentences), headings)
    spellings: dict[str, Counter[str]] = {}
    for word in _words_of(" ".join(sentences)):
        spellings.setdefault(_stem(word), Counter())[word] += 1
    heaviest = sorted(centroid, key=lambda term: (-centroid[term], term))[:count]
    return [spellings[term].most_common(1)[0][0] for term in heaviest]


def terms(text: str) -> list[str]:
    """Return the words of a text without common words, in lower case and without a plural s."""
    return [_stem(word) for word in _words_of(text)]


def repetitions(sentences: Sequence[str]) -> list[bool]:
    """Return for each sentence whether it repeats an earlier one: they share SAME of their terms."""
    repeated: list[bool] = []
    earlier: list[set[str]] = []
    for sentence in sentences:
        mine = set(terms(sentence)) or {plain(sentence)}
        repeated.append(any(_is_same(mine, other) for other in earlier))
        if not repeated[-1]:
            earlier.append(mine)
    return repeated


def plain(text: str) -> str:
    """Return `text` for comparison: lower case, one space between words, no punctuation."""
    return " ".join(re.findall(r"\w+", text.lower()))


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark").enable("table")


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield ("heading" or "text", words) for every block of prose."""
    kind = "text"
    tables = 0
    for token in _parser().parse(text):
        match token.type:
            case "heading_open":
                kind = "heading"
            case "heading_close":
                kind = "text"
            case "table_open":
                tables += 1
            case "table_close":
                tables -= 1
            case "inline" if not tables and (words := _words(token)):
                yield kind, words


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if _WORD.search(line)]


def _words(inline: Token) -> str:
    parts = []
    for token in inline.children or ():
        if token.type == "text":
            parts.append(token.content)
        elif token.type == "code_inline":
            parts.append(f"`{token.content}`")
        elif token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
    return "".join(parts).strip()


def _words_of(text: str) -> Iterator[str]:
    for found in _WORD.findall(text.lower()):
        word = _APOSTROPHE.split(found, maxsplit=1)[0]
        if len(word) > 2 and word not in _COMMON:
            yield word


def _is_same(one: set[str], other: set[str]) -> bool:
    shorter, longer = sorted((len(one), len(other)))
    return shorter >= SAME * longer and len(one & other) >= SAME * len(one | other)


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _vectors(sentences: Sequence[str]) -> list[Vector]:
    counts = [Counter(terms(sentence)) for sentence in sentences]
    found_in = Counter(term for count in counts for term in count)
    rarity = {term: math.log(1 + len(sentences) / times) for term, times in found_in.items()}
    return [_unit({term: times * rarity[term] for term, times in count.items()}) for count in counts]


def _centroid(vectors: Sequence[Vector], headings: Sequence[str]) -> Vector:
    total: Vector = {}
    for vector in vectors:
        for term, value in vector.items():
            total[term] = total.get(term, 0.0) + value
    for term in set(terms(" ".join(headings))) & total.keys():
        total[term] *= 1.5
    return _unit(total)


def _unit(vector: Vector) -> Vector:
    length = math.sqrt(sum(value * value for value in vector.values()))
    return {term: value / length for term, value in vector.items()}


def _dot(one: Vector, other: Vector) -> float:
    return sum(value * other[term] for term, value in one.items() if term in other)


def _form(sentence: str) -> float:
    """Return how well a sentence can be read alone, 0 to 1, by its length and its end."""
    length = len(sentence.split())
    factor = min(1.0, length / 8) * min(1.0, 40 / length)
    if sentence.endswith(":"):
        return factor * 0.3
    return factor if sentence.endswith(_ENDS) else factor * 0.6
