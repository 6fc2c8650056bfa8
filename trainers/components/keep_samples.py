"""Keeps all samples of a judging run as it is measured, so that a judge that comes later needs no sampling."""

from __future__ import annotations

import logging

from studies.records import JUDGE_CONTENT_FACT, JUDGE_FACT, Measurer
from studies.samples.kept import (
    UNTRAINED,
    KeptScores,
    KeptTexts,
    Preferred,
    Scored,
    digest_of_prompt,
)
from studies.text.redact import redact
from trainers.data.pairs import Pairs
from trainers.evaluation.evaluate import Evaluation, ReferenceNumbers
from trainers.interface import Job
from trainers.run_folder.kept_samples import add_evaluation

logger = logging.getLogger(__name__)


def keep_samples(job: Job, pairs: Pairs, numbers: ReferenceNumbers, found: Evaluation, step: int) -> None:
    """Keep what a run wrote after `step` steps, where its job says so. A disk that does not take it costs no run."""
    if not job.keep_samples:
        return
    key, now, start = job.config.key, found.written, numbers.written
    prompts = tuple(pairs.prompts[i % len(pairs.prompts)] for i in range(len(now.texts)))
    texts = KeptTexts(
        key=key,
        prompts=prompts,
        texts={UNTRAINED: start.texts, step: now.texts},
        ended={UNTRAINED: start.ended, step: now.ended},
    )
    by = judge_of(pairs, job.config.evaluator)
    has_gold = now.gold is not None and start.gold is not None
    scored = (Scored(by=by, scores={UNTRAINED: start.gold or (), step: now.gold or ()}),) if has_gold else ()
    preferred = () if now.preferred is None else (_against_untrained(by, step, now.preferred),)
    scores = KeptScores(
        key=key,
        prompts=tuple(map(digest_of_prompt, prompts)),
        seed=pairs.sampling_seed,
        longest=job.config.evaluation.max_new_tokens,
        tokens={UNTRAINED: start.tokens, step: now.tokens},
        scored=scored,
        preferred=preferred,
    )
    try:
        add_evaluation(job.folder, texts, scores)
    except OSError as error:
        logger.warning("the samples of run %s after step %d could not be kept: %s", key, step, error)


def judge_of(pairs: Pairs, evaluator: str) -> Measurer:
    """Who judges samples of these pairs, as a run's record says it."""
    known = redact(dict(pairs.facts))
    return Measurer(evaluator=evaluator, judge=known.get(JUDGE_FACT), content=known.get(JUDGE_CONTENT_FACT))


def _against_untrained(by: Measurer, step: int, preferred: tuple[tuple[float, ...], tuple[bool, ...]]) -> Preferred:
    wins, contradicted = preferred
    return Preferred(by=by, against="", steps=((step, UNTRAINED),), wins=(wins,), contradicted=(contradicted,))
