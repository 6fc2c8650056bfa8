"""Asks judges about samples that runs have kept: loads no policy and samples nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from studies.design.measurers import judge_at
from studies.records import (
    EVALUATOR_FACT,
    JUDGE_CONTENT_FACT,
    JUDGE_FACT,
    Cause,
    Judge,
    Measurement,
    Measurer,
    RunConfig,
    RunResult,
    Scalar,
    Shown,
    digest,
)
from studies.samples.kept import (
    UNTRAINED,
    KeptScores,
    KeptTexts,
    Preferred,
    same_judge,
    with_preferred,
    with_scores,
)
from trainers.data.pairs import Gold, JudgeError, Prefer
from trainers.data.tokens import plain
from trainers.evaluation.judges import at_content, load_judge, load_pairwise
from trainers.evaluation.metrics import Floats
from trainers.evaluation.samples import LONGEST_SHOWN, SHOWN, as_judged
from trainers.interface import Job
from trainers.run_folder.kept_samples import read_scores, read_texts, write_scores

Value = TypeVar("Value")


class SampleJudge:
    """Judges kept samples. One object lives as long as its worker: judges stay loaded, and what was asked is known."""

    def __init__(self) -> None:
        self._scorers: dict[str, Gold] = {}
        self._comparers: dict[str, Prefer] = {}
        self._known: dict[str, tuple[float, ...]] = {}  # of samples that runs share: the untrained model's

    def judge(self, job: Job) -> RunResult:
        """Let every judge of the job's config look at the samples in its folder that it has not seen, keep there what
        they gave, and tell what the first one says of the run. Raises JudgeError; ValueError for a folder without.
        """
        config = job.config
        texts, scores = read_texts(job.folder), read_scores(job.folder)
        if texts is None or scores is None:
            raise ValueError(f"{job.folder} keeps no samples that can be read: train the run again")
        kept, prompts = len(texts.prompts), len(scores.prompts)
        if kept != prompts:
            raise ValueError(
                f"{job.folder} keeps the samples of {kept} of {prompts} prompts, as more would be too long, and a "
                "judge has to see all: train the run again with fewer evaluate.prompts"
            )
        for key, judge in config.evaluation.judges.items():
            by = judge_at(config, key)
            if judge.pairwise is None:
                scores = self._score(judge, by, texts, scores)
                _check_shares(judge, scores.scores_by(by) if key == "check" else {})
            else:
                scores = self._compare(judge, by, texts, scores, job.against)
        write_scores(job.folder, scores)
        return _told(config, texts, scores)

    def _score(self, judge: Judge, by: Measurer, texts: KeptTexts, scores: KeptScores) -> KeptScores:
        missing = [step for step in texts.texts if step not in scores.scores_by(by)]
        if not missing:
            return scores
        name = digest([judge.model_dump(mode="json"), by.content])
        ask = _once(self._scorers, name, lambda: load_judge(at_content(judge, by.content)))
        found = {}
        for step in missing:
            known = digest([name, texts.prompts, texts.texts[step]])
            if known not in self._known:
                self._known[known] = tuple(ask(texts.prompts, texts.texts[step], texts.ended[step]))
            found[step] = self._known[known]
        return with_scores(scores, by, found)

    def _compare(
        self, judge: Judge, by: Measurer, texts: KeptTexts, scores: KeptScores, against: Sequence[Path]
    ) -> KeptScores:
        """With the untrained model's at every step, and with those of other runs at the end of both."""
        name = digest([judge.model_dump(mode="json"), by.content])
        asked = [(step, "", UNTRAINED, texts) for step in texts.texts if step != UNTRAINED]
        others = [other for folder in against if (other := read_texts(folder)) is not None]
        last = max(texts.texts)
        asked += [(last, other.key, max(other.texts), other) for other in others if other.prompts == texts.prompts]
        for step, key, its, other in asked:
            if scores.has_compared(by, key, step, its):
                continue
            prefer = _once(self._comparers, name, lambda: load_pairwise(judge))
            wins, contradicted = prefer(texts.prompts, texts.texts[step], other.texts[its])
            new = Preferred(by=by, against=key, steps=((step, its),), wins=(wins,), contradicted=(contradicted,))
            scores = with_preferred(scores, new)
        return scores


def _check_shares(judge: Judge, found: Mapping[int, Sequence[float]]) -> None:
    """Raise JudgeError for a check that gives no shares, of which points would be nothing."""
    bad = [value for of in found.values() for value in of if not 0.0 <= value <= 1.0]
    if bad:
        raise JudgeError(f"{judge.name}: a check gives 0 to 1 for a sample, and gave {bad[0]:g}")


def _once(found: dict[str, Value], key: str, make: Callable[[], Value]) -> Value:
    if key not in found:
        found[key] = make()
    return found[key]


def _told(config: RunConfig, texts: KeptTexts, scores: KeptScores) -> RunResult:
    """What the first judge says of the run, at each evaluation."""
    if config.evaluation.judge is None:
        return RunResult(key=config.key, cause=Cause.FINISHED)
    by = judge_at(config, "judge")
    gold = {step: np.array(of) for step, of in scores.scores_by(by).items()}
    measured = [m for step in sorted(texts.texts) if step != UNTRAINED for m in _at(step, by, gold, scores)]
    facts: dict[str, Scalar] = {JUDGE_FACT: by.judge, EVALUATOR_FACT: config.evaluator}
    facts |= {} if by.content is None else {JUDGE_CONTENT_FACT: by.content}
    facts |= {"reference_gold": float(gold[UNTRAINED].mean())} if UNTRAINED in gold else {}
    return RunResult(
        key=config.key,
        cause=Cause.FINISHED,
        measurements=tuple(measured),
        facts=facts,
        samples=_shown(texts, gold),
    )


def _at(step: int, by: Measurer, gold: Mapping[int, Floats], scores: KeptScores) -> list[Measurement]:
    tokens = {at: np.array(of, dtype=np.float64) for at, of in scores.tokens.items()}
    preferred = next(
        (
            (p.wins[p.steps.index((step, UNTRAINED))], p.contradicted[p.steps.index((step, UNTRAINED))])
            for p in scores.preferred
            if not p.against and same_judge(p.by, by) and (step, UNTRAINED) in p.steps
        ),
        None,
    )
    found = as_judged(tokens[step], tokens[UNTRAINED], gold.get(step), gold.get(UNTRAINED), preferred)
    return [Measurement(name, e.value, e.error, step) for name, e in found.items()]


def _shown(texts: KeptTexts, gold: Mapping[int, Floats]) -> tuple[Shown, ...]:
    """A few of the samples, to be read: as `trainers.evaluation.samples.few_shown` chooses them."""
    last = max(texts.texts)
    firsts: dict[str, int] = {}
    for i, prompt in enumerate(texts.prompts):
        firsts.setdefault(plain(prompt), i)
    before, after = (gold.get(step) for step in (UNTRAINED, last))
    return tuple(
        Shown(
            prompt=prompt[:LONGEST_SHOWN],
            before=texts.texts[UNTRAINED][i][:LONGEST_SHOWN],
            after=texts.texts[last][i][:LONGEST_SHOWN],
            gold_before=None if before is None else float(before[i]),
            gold_after=None if after is None else float(after[i]),
            cut_before=not texts.ended[UNTRAINED][i],
            cut_after=not texts.ended[last][i],
        )
        for prompt, i in list(firsts.items())[:SHOWN]
    )
