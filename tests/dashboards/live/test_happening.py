"""What the events of a sweep add up to: who trains what since when, how attempts ended, which acts were answered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dashboards.live.page.charts import near, side_by_side
from dashboards.live.page.parts import failures
from dashboards.live.reading.figures import bins, figures_view
from dashboards.live.reading.happening import MOST_SPANS, Happened
from dashboards.live.reading.words import LONGEST_KEPT, _kept, why, words
from dashboards.live.views import Point, Span
from dashboards.report.progress import StatusCounts, StratumCounts
from studies.records import Cause, Failure
from studies.spec import Objective
from tests.dashboards.generated import a_record


def event(kind: str, at: float = 0.0, sweep: str = "one", **fields: Any) -> dict[str, Any]:
    return {"v": 1, "sweep": sweep, "n": 1, "at": at, "event": kind, **fields}


def started(key: str, at: float, worker: str = "worker-0", sweep: str = "one") -> dict[str, Any]:
    place = {"variant": "ipo", "scenario": "clean", "trial": 1, "block": 2, "seed": 3}
    return event("run_started", at, sweep, key=key, worker=worker, **place)


def test_a_run_is_in_training_from_its_start_to_its_end_and_keeps_its_last_step() -> None:
    happened = Happened()
    assert happened.take([started("a", 10.0), event("run_reported", 12.0, key="a", step=5, metrics={"loss": 0.5})])
    (run,) = happened.view().training
    assert (run.worker, run.variant, run.since, run.step, run.metrics) == ("worker-0", "ipo", 10.0, 5, {"loss": 0.5})
    happened.take([started("a", 11.0)])  # told again, as a new file of events begins
    assert happened.view().training[0].since == 10.0
    happened.take([event("run_ended", 15.0, key="a", cause="finished")])
    view = happened.view()
    assert view.training == ()
    assert [(span.begin, span.end, span.cause) for span in view.spans] == [(10.0, 15.0, "finished")]
    assert not happened.take([])


def test_another_sweep_and_the_end_of_one_leave_nothing_in_training() -> None:
    happened = Happened()
    happened.take([started("a", 1.0), event("worker", worker="worker-0", state="here", place="cpu")])
    assert happened.view().workers == {"worker-0": "here on cpu"}
    happened.take([started("b", 2.0, sweep="two")])
    assert [run.key for run in happened.view().training] == ["b"]
    assert happened.view().workers == {}
    happened.take([event("sweep_ended", 3.0, "two", how="stopped")])
    assert happened.view().training == ()


def test_answers_are_the_newest_first_and_what_is_damaged_or_unknown_does_no_harm() -> None:
    happened = Happened()
    happened.take(
        [
            event("request_answered", 1.0, id="a", ask="stop", outcome="done", message="it stops"),
            event("request_answered", 2.0, id="b", ask="pause", outcome="refused", message="\x1b[31mno"),
            event("run_reported", key="nobody", metrics={"loss": None}),
            event("run_reported", key="nobody"),
            event("run_ended", key="nobody", cause="finished"),
            event("a_later_version_tells_this", what=[1]),
            {},
        ]
    )
    assert [(one.ask, one.message) for one in happened.view().answered] == [
        ("pause", "\\x1b[31mno"),
        ("stop", "it stops"),
    ]


def test_a_sweep_of_a_week_keeps_a_bounded_past() -> None:
    happened = Happened()
    for i in range(MOST_SPANS + 50):
        happened.take([started(str(i), i), event("run_ended", i + 1, key=str(i), cause="finished")])
    spans = happened.view().spans
    assert len(spans) == MOST_SPANS
    assert spans[-1].begin == MOST_SPANS + 49


@pytest.mark.parametrize(
    ("values", "labels"),
    [([0.3, 0.1, 0.1], ("0.1", "0.3")), ([1.0], ("1",)), ([10.0**i for i in range(-6, 4)], None)],
)
def test_settings_fall_into_bins_few_values_into_their_own(values: list[float], labels: tuple[str, ...] | None) -> None:
    which, found = bins(values)
    assert found == labels or len(found) == 8
    places = [which(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place < len(found) for place in places)


def test_text_that_acts_on_a_screen_is_shown_and_nothing_is_nothing() -> None:
    assert words("a\u202eb\x1b[0m") == "a\\u202eb\\x1b[0m"
    assert words(None) == ""


def test_only_names_are_kept_and_no_ends_of_logs() -> None:
    _kept.cache_clear()
    words("a" * (LONGEST_KEPT + 1))
    assert _kept.cache_info().currsize == 0
    words("ipo")
    assert _kept.cache_info().currsize == 1


def test_figures_show_conditions_apart_and_runs_that_broke_and_say_what_a_number_is() -> None:
    def run(trial: int, scenario: str, cause: Cause = Cause.FINISHED) -> Any:
        knobs = {"learning_rate": 10.0**-trial, "beta": 0.1 * trial}
        metrics = {"gold": float(trial), "kl": 2.0}
        return a_record(cause, trial=trial, scenario=scenario, variant="ipo", knobs=knobs, metrics=metrics, seed=1)

    runs = [run(1, "clean#1"), run(2, "clean#2"), run(1, "noisy"), run(2, "noisy", Cause.COLLAPSED)]
    found = figures_view(runs, Objective(metric="gold"))
    assert [heat.name for heat in found.heats] == ["ipo in clean", "ipo in noisy"]
    assert [point.failed for point in found.points] == [False, False, False, True]
    assert found.metric == "true reward"
    assert "gold" not in found.about
    assert found.runs[1].label == "ipo in clean, replicate 2, trial 2, data draw 0, seed 1"
    assert [one.finished for one in found.runs] == [True, True, True, False]


def test_failures_are_told_by_variant_and_with_what_they_mean() -> None:
    def stratum(variant: str, failed: int, untrained: int) -> StratumCounts:
        return StratumCounts(variant, "clean", 3, failed, 0, untrained, 0, 12)

    strata = (stratum("ipo", 2, 0), stratum("hinge", 0, 1), stratum("sigmoid", 0, 0))
    counts = StatusCounts(36, 12, 24, None, None, strata, {"out_of_gpu_memory": 2, "worker_lost": 1}, {})
    assert failures(counts) == (
        "2 runs failed by their settings (ipo 2): 2 out of gpu memory (it does not fit on the GPU, alone and in parts)."
        " 1 run could not be trained (hinge 1): 1 worker lost (its worker process was killed or is gone)."
    )
    assert failures(replace(counts, failures={"collapsed": 1})) == (
        "1 run failed by its settings (ipo 2): 1 collapsed (its samples are empty or repeat themselves). That counts "
        "against the losses; nothing is to be mended."
    )
    assert failures(replace(counts, failures={})) == ""
    assert {kind: why(kind) for kind in (*Failure, *Cause) if "(" not in why(kind)}.keys() == {
        *(Cause.FINISHED, Cause.NON_FINITE)
    }, "no failure is a word alone"


def test_runs_of_a_pack_stand_side_by_side_and_a_broken_run_far_outside_is_left_out() -> None:
    spans = [Span("w", "ipo", at, at + 2.0, "finished") for at in (0.0, 1.0, 2.5)] + [Span("w", "ipo", 3.0, None, None)]
    assert [[span.begin for span in row] for _, row in side_by_side(spans)] == [[0.0, 2.5], [1.0, 3.0]]
    many = [Span("w", "ipo", 0.0, None, None)] * 100
    assert [len(row) for _, row in side_by_side(many)] == [100]
    points = [Point("a", "ipo", "a", 2.0, 1.0, False), Point("b", "ipo", "b", 3.9, 1.0, True)]
    far = Point("c", "ipo", "c", 160.0, -16.0, True)
    assert near([*points, far]) == points
    assert near([*points * 3, replace(far, failed=False)]) == points * 3
    assert near([far]) == [far]
