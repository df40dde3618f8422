"""Estimates of durations, learned from finished runs: per LLM and skill, for each character of a task.

What else is learned of an LLM is kept here too: the quality of its work, and how much text is too long for it.

Two numbers are kept for each: the logarithm of the pace and how many runs it rests on. In logarithms, twice as fast
and half as fast are equally far away, and the ratio of two LLMs, which is what decides, does not depend on the tasks
that they happened to get.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, exp, log
from typing import Any, Self

from pydantic import JsonValue

from broker.timestamps import EPOCH, Instant, Micros, seconds
from coordinator.core.llms.cost_estimates import CostEstimates
from coordinator.core.llms.quality import Quality

CHARACTERS_PER_TOKEN = 3.5  # of English text and code; the tokenizers of models differ
BASE_LENGTH = 2000  # characters of text that take about as long as what does not depend on the text: the answer
WEIGHT = 0.15  # of the newest run, once there are several
SURPRISE = 1.0  # a run counts as at most e times faster or slower than expected: one outlier moves little
BLEND = 2.0  # runs with a skill that count as much as all that is known of the LLM
UNLUCKY = 0.98  # the share of runs that are shorter than an unlucky one
UNLUCKY_STEP = 0.3
UNLUCKY_AT_FIRST = log(2)
HALF_LIFE = seconds(1800)  # an LLM that has done nothing for so long is believed half as much to be what it was
FIRST_GUESS = log(seconds(10) / BASE_LENGTH)  # where nothing at all is known: ten seconds for a short task


def text_length(value: JsonValue) -> int:
    """Return the number of characters of text in a JSON value."""
    match value:
        case None:
            return 0
        case str():
            return len(value)
        case dict():
            return sum(len(key) + text_length(item) for key, item in value.items())
        case list():
            return sum(map(text_length, value))
        case _:
            return len(str(value))


def tokens(size: float) -> int:
    """Return the estimated tokens of a task of that size (see Task.size), with a usual answer."""
    return ceil(size / CHARACTERS_PER_TOKEN)


@dataclass(slots=True)
class Pace:
    """The logarithm of microseconds for each character, and the number of runs behind it."""

    log: float = FIRST_GUESS
    runs: int = 0

    def learn(self, observed: float) -> None:
        """Move towards a run: all the way for the first, by a share for others, and never far for an outlier."""
        self.runs += 1
        if self.runs == 1:
            self.log = observed
            return
        surprise = max(-SURPRISE, min(SURPRISE, observed - self.log))
        self.log += max(WEIGHT, 1 / self.runs) * surprise


@dataclass(slots=True)
class DurationEstimates:
    """The estimates of one LLM: its pace in general and with each skill, as of its last finished run.

    `window` is the context window in estimated tokens: below the smallest task that was too long, None if none was.
    """

    overall: Pace = field(default_factory=Pace)
    skills: dict[str, Pace] = field(default_factory=dict)
    at: Instant = EPOCH
    unlucky: float = UNLUCKY_AT_FIRST  # the logarithm of how much longer than expected an unlucky run takes
    quality: dict[str, Quality] = field(default_factory=dict)  # by skill
    window: int | None = None
    costs: CostEstimates = field(default_factory=CostEstimates)

    def learn(self, skills: Sequence[str], size: float, run: Micros, now: Instant) -> None:
        """Learn from a finished run of `run` microseconds, for a task of that size (see Task.size) and those skills."""
        observed = log(max(run, 1) / size)
        if self.overall.runs:
            longer = observed - log(self.pace(skills, now)) > self.unlucky
            self.unlucky = max(0.0, self.unlucky + UNLUCKY_STEP * (UNLUCKY - 1 + longer))
        self.overall.learn(observed)
        for skill in skills:
            self.skills.setdefault(skill, Pace()).learn(observed)
        if self.window is not None:
            self.window = max(self.window, tokens(size))
        self.at = now

    def learn_too_long(self, size: float) -> None:
        """Learn that the context window is too small for a task of that size."""
        too_many = tokens(size)
        self.window = max(1, too_many - 1 if self.window is None else min(self.window, too_many - 1))

    def judge(self, skills: Sequence[str], score: float, now: Instant) -> None:
        """Learn from a score of its work on a task with those skills, from 0 (useless) to 1."""
        for skill in skills:
            self.quality.setdefault(skill, Quality()).learn(score, now)

    def pace(self, skills: Sequence[str], now: Instant, guess: float = FIRST_GUESS) -> float:
        """Return microseconds for each character of a task with those skills; `guess`, a logarithm, without any run."""
        overall = self.overall
        if not overall.runs:
            return exp(guess)
        known = [self.skills[skill] for skill in skills if skill in self.skills]
        believed = overall.log
        if known:
            gaps = [(pace.log - overall.log) * pace.runs / (pace.runs + BLEND) for pace in known]
            believed += sum(gaps) / len(gaps)
        if now - self.at > seconds(60):
            believed = guess + (believed - guess) * 0.5 ** ((now - self.at) / HALF_LIFE)
        return exp(believed)

    def plain(self) -> dict[str, Any]:
        """Return the estimates as JSON-able data."""
        skills = {skill: [pace.log, pace.runs] for skill, pace in self.skills.items()}
        overall = [self.overall.log, self.overall.runs]
        quality = {skill: found.plain() for skill, found in self.quality.items()}
        plain = {"overall": overall, "skills": skills, "at": self.at, "unlucky": self.unlucky, "quality": quality}
        plain["costs"] = self.costs.plain()
        return plain if self.window is None else plain | {"window": self.window}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any] | None) -> Self:
        """Return the estimates from what `plain` returned; new ones for None."""
        if not plain:
            return cls()
        skills = {skill: Pace(*pace) for skill, pace in plain["skills"].items()}
        quality = {skill: Quality.from_plain(found) for skill, found in plain.get("quality", {}).items()}
        overall, unlucky = Pace(*plain["overall"]), plain.get("unlucky", UNLUCKY_AT_FIRST)
        costs = CostEstimates.from_plain(plain.get("costs"))
        return cls(overall, skills, Instant(plain["at"]), unlucky, quality, plain.get("window"), costs)
