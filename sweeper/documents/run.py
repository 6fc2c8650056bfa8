"""What `sweeper run --json` answers at its end, after its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dashboards.tables.comparison import Comparison
from dashboards.tuned.answer import Answer
from sweeper.loop.progress import Outcome
from sweeper.measuring.verify import Verification


@dataclass(frozen=True)
class Answered:
    """The answer for one condition of the data or of the training."""

    condition: str
    answer: Answer


@dataclass(frozen=True)
class RunDocument:
    """How a sweep ended, and the study's answer. `whole`: nothing is left to train; `reused`: runs that were finished
    before; `failures` by kind; `undelivered`: records that wait for MLflow, without which there is no answer yet;
    `unmeasured`: finished runs that could not be measured again; `again`: the command that goes on, None where there
    is nothing to go on with. `answers`: see also `sweeper table --json`. `verified`: with `--verify`.
    """

    schema: ClassVar[str] = "run/1"
    study: str
    whole: bool
    stopped: bool
    trained: int
    reused: int
    failures: Mapping[str, int]
    undelivered: int
    unmeasured: int
    again: str | None
    answers: tuple[Answered, ...]
    verified: Verification | None


def run_document(
    study: str, outcome: Outcome, table: Comparison | None, verified: Verification | None, again: str
) -> RunDocument:
    """The document of a sweep that has ended. `again`: the command that goes on with it."""
    told = [] if table is None else zip(table.tuned, table.answers, strict=True)
    done = outcome.whole and not outcome.undelivered and not outcome.unmeasured
    return RunDocument(
        study=study,
        whole=outcome.whole,
        stopped=outcome.stopped,
        trained=outcome.trained,
        reused=outcome.reused,
        failures={kind.value: number for kind, number in outcome.failures.items() if number},
        undelivered=outcome.undelivered,
        unmeasured=outcome.unmeasured,
        again=None if done else again,
        answers=tuple(Answered(found.condition, answer) for found, answer in told),
        verified=verified,
    )
