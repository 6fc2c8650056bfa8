"""All samples of a run that judged, as they are kept: what was written, and apart from it what judges said of it.

Two files, so that a table reads no text: `samples/texts.json.gz`, which a judge that comes later reads in the place of
sampling again, and `samples/scores.json`. Steps are those after which the run was measured; 0 is the untrained model,
sampled under the same prompts by the same random numbers. Reads and writes no file.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from studies.records.configs import Frozen
from studies.records.results import Measurer
from studies.text.files import parse_json
from studies.text.redact import redact
from studies.text.visible import visible_json

SAMPLES_FOLDER: Final = "samples"
"""Of a run's folder, and of its artifacts."""
TEXTS_FILE, SCORES_FILE = "texts.json.gz", "scores.json"
MOST_CHARACTERS: Final = 2**24
"""Of the texts of a run that are kept, prompts included: of more, evaluations on the way go first, then prompts."""
_MOST_BYTES: Final = 2**28  # of what a file may hold when it is unpacked

Text = str | list[dict[str, Any]]
UNTRAINED: Final = 0


class KeptTexts(Frozen):
    """What a run wrote: under prompt i one sample at every step, `texts[step][i]`; `ended`: whether it came to its end
    by itself. `key`: of the run.
    """

    key: str
    prompts: tuple[Text, ...]
    texts: Mapping[int, tuple[str, ...]]
    ended: Mapping[int, tuple[bool, ...]]


class Scored(Frozen):
    """What a judge, or a check, gave each sample: step -> [n]."""

    by: Measurer
    scores: Mapping[int, tuple[float, ...]]


class Preferred(Frozen):
    """How often a pairwise judge, asked in both orders, put the samples above those of another run: (our step, its
    step) -> [n], as in `wins`. `against`: that run's key, "" for the untrained model; `contradicted` [n]: where the
    two orders contradicted each other, which counts as a tie.
    """

    by: Measurer
    against: str
    steps: tuple[tuple[int, int], ...]
    wins: tuple[tuple[float, ...], ...]
    contradicted: tuple[tuple[bool, ...], ...]


class KeptScores(Frozen):
    """What is known of a run's samples without their texts. `prompts` [n]: a digest of each; `tokens`: step -> [n];
    `seed` and `longest`: what they were sampled with, at temperature 1, and their most tokens.
    """

    key: str
    prompts: tuple[str, ...]
    seed: int
    longest: int
    temperature: float = 1.0
    tokens: Mapping[int, tuple[int, ...]]
    scored: tuple[Scored, ...] = ()
    preferred: tuple[Preferred, ...] = ()

    def scores_by(self, judge: Measurer) -> Mapping[int, tuple[float, ...]]:
        """What this judge gave, by step, last where its content is not known; nothing where it has not judged."""
        return next((one.scores for one in reversed(self.scored) if same_judge(one.by, judge)), {})

    def has_compared(self, judge: Measurer, against: str, step: int, its: int) -> bool:
        """Whether a pairwise judge has compared two evaluations; `against` as in `Preferred`."""
        known = (one for one in self.preferred if one.against == against and same_judge(one.by, judge))
        return any((step, its) in one.steps for one in known)

    def is_paired_with(self, other: KeptScores) -> bool:
        """Whether both answered the same prompts by the same random numbers."""
        mine, its = (
            (of.prompts, of.seed, of.longest, of.temperature, of.tokens.get(UNTRAINED)) for of in (self, other)
        )
        return mine == its


def same_judge(one: Measurer, other: Measurer) -> bool:
    """Whether two judges are one: by name, and by content where both are known."""
    known = one.content is not None and other.content is not None
    return one.judge == other.judge and (not known or one.content == other.content)


def with_scores(kept: KeptScores, judge: Measurer, scores: Mapping[int, Sequence[float]]) -> KeptScores:
    """The same with what a judge gave: for the steps that it had judged before, in the place of that."""
    before = kept.scores_by(judge)
    new = Scored(by=judge, scores={**before, **{step: tuple(of) for step, of in scores.items()}})
    others = tuple(one for one in kept.scored if not same_judge(one.by, judge))
    return kept.model_copy(update={"scored": (*others, new)})


def with_preferred(kept: KeptScores, new: Preferred) -> KeptScores:
    """The same with what a pairwise judge preferred, in the place of what it did of the same two runs before."""
    steps = dict.fromkeys(new.steps)
    before = next((p for p in kept.preferred if p.against == new.against and same_judge(p.by, new.by)), None)
    if before is not None:
        old = [i for i, pair in enumerate(before.steps) if pair not in steps]
        new = new.model_copy(
            update={
                name: (*(getattr(before, name)[i] for i in old), *getattr(new, name))
                for name in ("steps", "wins", "contradicted")
            }
        )
    others = tuple(p for p in kept.preferred if p is not before)
    return kept.model_copy(update={"preferred": (*others, new)})


def digest_of_prompt(prompt: Text) -> str:
    """By which a prompt is known without its text."""
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()[:12]


def without_secrets(texts: KeptTexts) -> KeptTexts:
    """The same as it may be kept."""
    shown = redact({"prompts": list(texts.prompts), "texts": list(texts.texts.values())}, by_name=False)
    written = {step: tuple(of) for step, of in zip(texts.texts, shown["texts"], strict=True)}
    return texts.model_copy(update={"prompts": tuple(shown["prompts"]), "texts": written})


def bounded(texts: KeptTexts, most: int = MOST_CHARACTERS) -> KeptTexts:
    """As much of it as is kept: without evaluations on the way, the first one first, then without the last prompts."""
    last = max(texts.texts)
    for step in sorted(texts.texts):
        if _characters(texts) > most and step not in (UNTRAINED, last):
            texts = texts.model_copy(update={name: _without(getattr(texts, name), step) for name in ("texts", "ended")})
    while _characters(texts) > most and len(texts.prompts) > 1:
        half = len(texts.prompts) // 2
        cut = {name: {s: of[:half] for s, of in getattr(texts, name).items()} for name in ("texts", "ended")}
        texts = texts.model_copy(update={"prompts": texts.prompts[:half], **cut})
    return texts


def _without(of: Mapping[int, Any], step: int) -> dict[int, Any]:
    return {key: value for key, value in of.items() if key != step}


def _characters(texts: KeptTexts) -> int:
    prompts = sum(len(p) if isinstance(p, str) else sum(len(str(m)) for m in p) for p in texts.prompts)
    return prompts + sum(len(text) for of in texts.texts.values() for text in of)


def texts_as_bytes(texts: KeptTexts) -> bytes:
    """The file of the texts: JSON, of which nothing acts on a terminal."""
    return gzip.compress(visible_json(texts.model_dump_json()).encode(), mtime=0)


def texts_from_bytes(content: bytes) -> KeptTexts:
    """What `texts_as_bytes` gave. Raises ValueError for anything else."""
    try:
        with gzip.open(io.BytesIO(content)) as file:
            text = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError) as error:
        raise ValueError(f"it cannot be unpacked ({error})") from error
    if len(text) > _MOST_BYTES:
        raise ValueError(f"it holds more than {_MOST_BYTES >> 20} MiB")
    return KeptTexts.model_validate(parse_json(text))


def scores_as_text(scores: KeptScores) -> str:
    """The file of the scores."""
    return visible_json(scores.model_dump_json())


def scores_from_text(text: str | bytes) -> KeptScores:
    """What `scores_as_text` gave. Raises ValueError for anything else."""
    return KeptScores.model_validate(parse_json(text))
