"""The untrained model's own answers, for pairs of which only the chosen one is there; knows no gold and no label."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from studies.records import EMBEDDED
from trainers.world.pairs import can_be_text, load_model, load_tokenizer, sample_completions

_STREAM: Final = 2
"""Of a block's random numbers; 0 and 1 draw its training and evaluation pairs (:mod:`trainers.world.pairs`)."""


def own_answers(demonstrations: Sequence[tuple[str, str]], block: int, name: str = EMBEDDED) -> tuple[str, ...]:
    """For each (prompt, answer) a sample of the embedded model of that name under the same prompt that is another text.

    As SPIN's first iteration makes them (arXiv 2401.01335). The same demonstrations and block give the same answers,
    and those of fewer demonstrations are the first of more. A sample that ran into the cap, is empty, holds a special
    token or equals the answer is drawn anew.
    """
    model, tokenizer = load_model(name), load_tokenizer(name)
    special = frozenset(tokenizer.all_special_tokens)
    found: dict[int, str] = {}
    draw = 0
    while pending := [i for i in range(len(demonstrations)) if i not in found]:
        seed = np.random.SeedSequence((block, _STREAM, draw))
        sampled = sample_completions(model, tokenizer, [demonstrations[i][0] for i in pending], seed)
        found |= {
            i: completion.text
            for i, completion in zip(pending, sampled, strict=True)
            if can_be_text(completion, special) and completion.text != demonstrations[i][1]
        }
        draw += 1
    return tuple(found[i] for i in range(len(demonstrations)))
