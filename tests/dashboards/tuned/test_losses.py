"""What each loss gains once tuned, by the runs that judged, and how it stands beside the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dashboards.statistics.scale import Scale, scale_of
from dashboards.tables.short import short_cells, short_notes
from dashboards.tuned.answer import Cost, answer
from dashboards.tuned.losses import Tuned, TunedLoss, tuned
from dashboards.tuned.replicates import Replicate, replicates_of
from studies.records import Cause, RunRecord
from studies.schema.replicates import Cell
from studies.spec import Objective
from tests.dashboards.tuned.replicated import DRIFT, a_run, replicated

OBJECTIVE = Objective(metric="gold", at_drift=DRIFT)
SCALE: Scale = scale_of(OBJECTIVE, "embedded")


def found(
    records: Sequence[RunRecord], points: int = 2, replicates: int = 6
) -> dict[tuple[str, str], tuple[Replicate, ...]]:
    names = {record.variant for record in records}
    planned = {(n, Cell("clean", r).name): points for n in names for r in range(1, replicates + 1)}
    return replicates_of(records, OBJECTIVE, SCALE, planned)


def compared(records: Sequence[RunRecord], points: int = 2, replicates: int = 6) -> Tuned:
    of = {name: runs for (name, _), runs in found(records, points, replicates).items()}
    names = {name: (name,) for name in dict.fromkeys(record.variant for record in records)}
    return tuned(
        "clean", of, names, SCALE, baseline="sigmoid", drift=DRIFT, settings=points, planned=replicates
    )  # fmt: skip


def loss(records: Sequence[RunRecord], name: str) -> TunedLoss:
    return next(one for one in compared(records).losses if one.variant == name)


def test_a_gain_is_read_at_the_drift_in_shares_of_the_best_that_is_possible_there() -> None:
    (one,) = found(replicated({"sigmoid": [0.6]})).values()
    assert one[0].judged is not None
    assert one[0].judged.gain == pytest.approx(0.6)
    assert one[0].judged.at[DRIFT / 4] == pytest.approx(0.3)
    assert one[0].judged.end == pytest.approx(1.2)


def test_the_gain_of_a_loss_is_the_mean_of_its_judging_runs_and_not_of_those_that_chose() -> None:
    gains = [0.5, 0.6, 0.7]
    mine = loss(replicated({"sigmoid": gains, "ipo": gains}), "sigmoid")
    assert mine.gain is not None
    assert mine.gain.value == pytest.approx(0.6)
    assert (mine.judged, mine.tried, mine.worked) == (3, 6, 6)


def test_the_best_on_the_tuning_draw_is_chosen_whatever_the_judging_runs_say() -> None:
    records = [*replicated({"sigmoid": [0.6]}), a_run("sigmoid", 1, 0, 0.99, judging=True)]
    (one,) = found(records).values()
    assert one[0].chosen is not None
    assert one[0].chosen.trial == 1
    assert one[0].judged is not None
    assert one[0].judged.gain == pytest.approx(0.6)


def test_without_a_drift_to_compare_at_drift_and_length_are_those_at_the_end() -> None:
    ends = {"gold": 1.0, "kl": 3.0, "length_ratio": 1.5, "train_accuracy": 0.9, "accuracy": 0.5}
    runs = [
        *(a_run("sigmoid", r, t, 0.5) for r in (1, 2, 3) for t in (0, 1)),
        *(a_run("sigmoid", r, 1, 0.5, judging=True, metrics={**ends, "kl": float(r)}) for r in (1, 2, 3)),
    ]
    at_end = Objective(metric="gold")
    planned = {("sigmoid", Cell("clean", r).name): 2 for r in (1, 2, 3)}
    of = {name: found for (name, _), found in replicates_of(runs, at_end, SCALE, planned).items()}
    (one,) = tuned(
        "clean", of, {"sigmoid": ("sigmoid",)}, SCALE, baseline="sigmoid", drift=None, settings=2, planned=3
    ).losses  # fmt: skip
    assert (one.drift, one.length) == (2.0, 1.5)
    assert one.end.gap == pytest.approx(0.4)
    assert one.step is None, "nobody would stop it on its way"


def test_differences_of_fewer_replicates_are_told_once_all_are_whole() -> None:
    whole = replicated({"sigmoid": [0.6, 0.7, 0.8], "ipo": [0.6, 0.7]})
    broken = [a_run("ipo", 3, trial, 0.1, cause=Cause.COLLAPSED) for trial in (0, 1)]
    found = compared([*whole, *broken], replicates=3)
    said = "By fewer than 3 replicates (others broke or jump the drift): ipo 2."
    assert any(note.endswith(said) for note in short_notes([found]))
    more, even = (replace(found, condition=name) for name in ("better", "even"))
    assert any("ipo in better 2, ipo in even 2." in note for note in short_notes([more, even]))
    assert not any("By fewer" in note for note in short_notes([compared(whole, replicates=3)]))
    (cells,) = (row for row in short_cells(found, answer(found, 0.03, Cost(0))).rows if row[0] == "ipo")
    assert cells[2] == "0 (n=2)", "a number without an interval says of how many it is"


def test_differences_pair_the_replicates_of_both() -> None:
    base = [0.3, 0.5, 0.7, 0.4, 0.6, 0.5]
    better = [gain + 0.1 + 0.01 * (-1) ** i for i, gain in enumerate(base)]
    mine = loss(replicated({"sigmoid": base, "ipo": better}), "ipo")
    assert mine.difference is not None
    assert mine.difference.estimate.value == pytest.approx(0.1, abs=1e-9)
    assert mine.difference.word == "better"
    assert mine.compared_at == DRIFT


def test_a_loss_that_never_gets_to_the_drift_has_those_words_and_no_gain_and_is_compared_where_it_gets() -> None:
    base = [0.5, 0.52, 0.48, 0.51, 0.5, 0.49]
    records = replicated({"sigmoid": base, "sppo_hard": [0.4] * 6})
    short = (0.05, 0.1, 0.3, 0.6)
    records = [
        a_run("sppo_hard", 3, r.trial, 0.4, judging=r.phase == "confirm", kls=short)
        if (r.variant, r.scenario) == ("sppo_hard", "clean#3")
        else r
        for r in records
    ]
    mine = loss(records, "sppo_hard")
    assert mine.gain is None
    assert mine.missing == "never gets to 1 nat in 1 of 6 draws"
    assert mine.compared_at == DRIFT / 2
    assert mine.difference is not None
    assert mine.difference.estimate.value == pytest.approx(-0.1, abs=0.01)  # of what is possible there
    assert "sppo_hard" not in (compared(records).best or pytest.fail("judged")).kept


def test_a_setting_that_broke_counts_as_nothing_gained_and_is_not_chosen() -> None:
    records = [a_run("sigmoid", 1, 0, 0.4), a_run("sigmoid", 1, 1, 0.9, cause=Cause.COLLAPSED)]
    (one,) = found(records).values()
    assert one[0].chosen is not None
    assert one[0].chosen.trial == 0
    mine = loss(records, "sigmoid")
    assert dict(mine.broken) == {"collapsed": 1}
    assert mine.any_setting is not None
    assert mine.any_setting.value == pytest.approx(0.4)  # at the end, at 4 nats, over two settings


def test_a_loss_of_which_every_setting_broke_says_so() -> None:
    records = replicated({"sigmoid": [0.5] * 3})
    records += [a_run("apo_down", r, n, 0.1, cause=Cause.NON_FINITE) for r in (1, 2, 3) for n in (0, 1)]
    mine = loss(records, "apo_down")
    assert mine.gain is None
    assert mine.missing == "every setting broke (0 of 6 worked)"


def test_a_judging_run_that_broke_has_no_gain_and_nothing_stands_in_for_it() -> None:
    records = [r for r in replicated({"sigmoid": [0.5] * 6, "ipo": [0.5] * 6}) if r.run_id != "ipo-2-1-judge"]
    records.append(a_run("ipo", 2, 1, 0.5, judging=True, cause=Cause.NON_FINITE, curves={}, metrics={}))
    assert loss(records, "ipo").gain is None


def test_whole_replicates_are_those_of_which_every_loss_has_all() -> None:
    records = replicated({"sigmoid": [0.5] * 6, "ipo": [0.5] * 4})
    assert compared(records).whole == 4


def test_what_would_be_exported_is_the_judging_run_at_the_step_that_the_tuning_draw_chose() -> None:
    mine = loss(replicated({"sigmoid": [0.5, 0.6, 0.7]}), "sigmoid")
    assert mine.step == 20
    assert mine.drift == pytest.approx(1.0)
    assert mine.length == pytest.approx(1.1)
    assert mine.settings["beta"] == pytest.approx(0.2)
    assert mine.chosen == ("clean#2", 1)  # the replicate in the middle


def test_equal_losses_are_called_apart_in_few_of_many_studies() -> None:
    draw = np.random.default_rng(1)
    words = []
    for _ in range(200):
        task = draw.normal(0.5, 0.1, 8)
        gains = {name: list(task + draw.normal(0.0, 0.03, 8)) for name in ("sigmoid", "ipo")}
        words.append(loss(replicated(gains, points=1), "ipo").difference)
    assert sum(d is not None and d.word in ("better", "worse") for d in words) <= 20  # 5 % of 200, and 3 deviations
