"""What `sweeper export` has written."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from studies.records import RunRecord, Scalar
from sweeper.planning.plan import show_knobs


@dataclass(frozen=True)
class Exported:
    """What was written, and of which run: `config`, its `data` and `model` (a name, or a folder), and where training
    will put the `adapter`. `step`: where to stop, None for the end. `train`: the command that trains it. Where it was
    asked for, `merged`: the folder of the plain model; `registered`: NAME/VERSION in MLflow; `shared`: the address on
    the Hub, or the folder of a dry run.
    """

    schema: ClassVar[str] = "export/1"
    config: str
    data: str
    model: str
    adapter: str
    study: str
    variant: str
    scenario: str
    trial: int
    block: int
    seed: int
    key: str
    run_id: str
    knobs: Mapping[str, Scalar]
    step: int | None
    data_digest: str
    train: str
    merged: str | None = None
    registered: str | None = None
    shared: str | None = None

    @classmethod
    def of(cls, record: RunRecord, step: int | None, config: Path, data: Path, model: str, digest: str) -> Exported:
        """What was written of a recorded run."""
        return cls(
            config=str(config),
            data=str(data),
            model=model,
            adapter=str(config.with_name(f"{config.stem}-adapter")),
            study=record.study,
            variant=record.variant,
            scenario=record.scenario,
            trial=record.trial,
            block=record.block,
            seed=record.seed,
            key=record.key,
            run_id=record.run_id,
            knobs=record.knobs,
            step=step,
            data_digest=digest,
            train=shlex.join(["trl", "dpo", "--config", str(config)]),
        )

    def __str__(self) -> str:
        """What was chosen, in words."""
        stop = f", stopped at step {self.step}" if self.step else ""
        return f"{self.variant}, trial {self.trial}: {show_knobs(self.knobs) or 'no settings of its own'}{stop}"
