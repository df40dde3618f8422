"""Which skills a task needs, from its text: character n-grams weighted by TF-IDF, compared by the cosine.

Character n-grams need no language: they see `summarise` in `summary`, forgive a typing error, and work where words
are not set apart by blanks. The weights are those of Salton and Buckley, Term-weighting approaches in automatic text
retrieval (1988): 1 + log of the count, times the smoothed log of the inverse document frequency.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import log, sqrt

from coordinator.core.llms.llm import LLM

SHORTEST, LONGEST = 3, 5  # characters of an n-gram
LENGTH_READ = 4000  # characters of a task's text; what it is about is said at its beginning
THRESHOLD = 0.08  # least similarity
MOST = 3  # skills that are suggested

Vector = dict[str, float]


class Corpus:
    """The descriptions of each skill, ready for comparison with texts. Rebuilt when an LLM or a skill changes."""

    def __init__(self, descriptions: Mapping[str, str]) -> None:
        """`descriptions` by skill: what the LLMs that have it say about themselves. The tag itself counts as well."""
        grams = {skill: _grams(f"{skill} {skill} {text}") for skill, text in descriptions.items()}
        found_in = Counter(gram for counted in grams.values() for gram in counted)
        self._rarest = log(1 + len(grams)) + 1
        self._rarity = {gram: log((1 + len(grams)) / (1 + count)) + 1 for gram, count in found_in.items()}
        self._vectors = {skill: self._vector(counted) for skill, counted in grams.items()}

    def similarities(self, text: str) -> list[tuple[float, str]]:
        """The cosine of `text` with each skill, from 0 to 1, the most similar first."""
        vector = self._vector(_grams(text[:LENGTH_READ]))
        found = ((_dot(vector, other), skill) for skill, other in self._vectors.items())
        return sorted(found, key=lambda scored: (-scored[0], scored[1]))

    def _vector(self, grams: Counter[str]) -> Vector:
        weights = {gram: (1 + log(n)) * self._rarity.get(gram, self._rarest) for gram, n in grams.items()}
        length = sqrt(sum(weight * weight for weight in weights.values())) or 1.0
        return {gram: weight / length for gram, weight in weights.items()}


def suggest_skills(text: str, corpus: Corpus, threshold: float = THRESHOLD) -> list[str]:
    """Return the skill that is most similar to the text, and those nearly as similar; none below the threshold."""
    similar = corpus.similarities(text)
    if not similar or similar[0][0] < threshold:
        return []
    nearly = 0.8 * similar[0][0]
    return [skill for similarity, skill in similar[:MOST] if similarity >= max(threshold, nearly)]


class Expertise:
    """Suggests skills from the descriptions of the known LLMs."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._corpus = Corpus({})

    def skills_for(self, text: str, llms: Iterable[LLM]) -> list[str]:
        """Return the skills that a text suggests; none when no description is similar."""
        said: dict[str, str] = {}
        for llm in llms:
            for skill in llm.skills:
                said[skill] = f"{said.get(skill, '')} {llm.description}"
        if said != self._said:
            self._said, self._corpus = said, Corpus(said)
        return suggest_skills(text, self._corpus)


def _grams(text: str) -> Counter[str]:
    plain = f" {' '.join(text.lower().replace('-', ' ').split())} "
    return Counter(
        plain[start : start + length]
        for length in range(SHORTEST, LONGEST + 1)
        for start in range(len(plain) - length + 1)
    )


def _dot(one: Vector, other: Vector) -> float:
    if len(other) < len(one):
        one, other = other, one
    return sum(weight * other[gram] for gram, weight in one.items() if gram in other)
