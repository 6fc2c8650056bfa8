"""The loop of a sweep on stores in memory: what it decides needs no database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from studies.design.identity import questions
from studies.records import State
from studies.spec import Study, StudySpec
from sweeper.executors import Inline
from sweeper.loop.progress import Outcome, Progress, Screen
from sweeper.loop.recovery import Past
from sweeper.loop.sweep import Stores, Sweep
from sweeper.planning.placement import Packs
from sweeper.search.memory import MemorySearch
from sweeper.tracking.memory import MemoryTracker

SPEC = StudySpec.model_validate(
    {
        "study": "small",
        "trainer": "formula",
        "base": {"model_name_or_path": "m", "max_steps": 6},
        "data": {"path": "somewhere/data"},
        "variants": {"sigmoid": {}, "ipo": {}},
        "space": {"beta": {"type": "float", "low": 0.05, "high": 1.0, "log": True}},
        "sampler": "sobol",
        "budget": {"trials": 3},
    }
)


@dataclass
class Kept:
    """What one sweep leaves to the next, and what it said."""

    search: MemorySearch | None = None
    tracker: MemoryTracker | None = None
    said: list[str] = field(default_factory=list)


def sweep(spec: StudySpec, runs: Path, kept: Kept, look: Callable[[Sweep, Progress], None] | None = None) -> Outcome:
    """One sweep of the study in this process, after what is kept of those before. `look` sees its progress."""
    study = Study.of(spec)
    kept.search = MemorySearch(spec, study.variants, kept.search)
    kept.tracker = kept.tracker or MemoryTracker(spec.study, questions(study))
    runs.mkdir(exist_ok=True)
    executor = Inline(spec.trainer)
    known = [(run, None) for run in kept.tracker.known_runs()]
    past = Past(known, lambda *_: True, runs, kept.said.append)
    screen = Screen(lambda progress: look(one, progress) if look else None, kept.said.append)
    packs = Packs(study, runs, 1, 1, kept.said.append)
    one = Sweep(study, Stores(kept.search, kept.tracker), past, executor, runs, packs, screen)
    return one.run()


def states(kept: Kept) -> Counter[tuple[str, str, State]]:
    """How many runs of each variant and phase stand in which state."""
    assert kept.tracker is not None
    return Counter((run.variant, run.phase, run.state) for run in kept.tracker.known_runs())


def test_every_planned_run_is_trained_once_recorded_and_told(tmp_path: Path) -> None:
    kept = Kept()
    outcome = sweep(SPEC, tmp_path / "runs", kept)
    assert (outcome.trained, outcome.reused, outcome.stopped) == (6, 0, False)
    assert states(kept) == {("sigmoid", "unbiased", State.COMPLETE): 3, ("ipo", "unbiased", State.COMPLETE): 3}
    assert kept.search is not None
    assert [told.state for told in kept.search.outcomes.values()] == [State.COMPLETE] * 6
    assert all(told.value is not None for told in kept.search.outcomes.values())


def test_a_second_sweep_trains_nothing_again_and_only_what_is_new(tmp_path: Path) -> None:
    kept = Kept()
    sweep(SPEC, tmp_path / "runs", kept)
    assert (again := sweep(SPEC, tmp_path / "runs", kept)).trained == 0
    assert again.reused == 6
    more = SPEC.model_copy(update={"budget": SPEC.budget.model_copy(update={"trials": 4})})
    assert (grown := sweep(more, tmp_path / "runs", kept)).trained == 2
    assert grown.reused == 6


def test_a_stopped_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    def stop_after_two(one: Sweep, progress: Progress) -> None:
        if progress.done >= 2:
            one.stop()

    kept = Kept()
    first = sweep(SPEC, tmp_path / "runs", kept, stop_after_two)
    assert first.stopped
    assert 2 <= first.trained < 6
    second = sweep(SPEC, tmp_path / "runs", kept)
    assert (first.trained + second.trained, second.reused, second.stopped) == (6, first.trained, False)
    assert sum(states(kept).values()) == 6


def test_the_best_trial_of_each_variant_is_trained_again_on_the_blocks_of_the_confirm_phase(tmp_path: Path) -> None:
    spec = StudySpec.model_validate(
        SPEC.model_dump(exclude_defaults=True) | {"confirm": {"top": 1, "blocks": [1, 2], "seeds": [0]}}
    )
    kept = Kept()
    assert sweep(spec, tmp_path / "runs", kept).trained == 6 + 4
    assert kept.tracker is not None
    assert kept.search is not None
    better = max if spec.objective.direction == "maximize" else min
    for variant in ("sigmoid", "ipo"):
        of = {key: told.value for key, told in kept.search.outcomes.items() if variant in key[0]}
        again = {run.trial for run in kept.tracker.known_runs() if (run.variant, run.phase) == (variant, "confirm")}
        assert again == {better(of, key=lambda key: of[key] or 0.0)[1]}
