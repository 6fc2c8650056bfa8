"""How many runs of a study train together: what its workers find, what is kept of it and what it changes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from studies.spec import Study, load_study
from sweeper.folder.names import PILOT_FILE
from sweeper.planning.placement import Packs, describe, kept_sizing, sample_runs
from trainers.interface import Placement, Sized, Sizing, Timing, pack_key

QUICKSTART = Path(__file__).parents[2] / "pins" / "quickstart.yaml"  # of before replicates: 24 runs
SPEC = load_study(QUICKSTART)
WHOLE = Study.of(SPEC)
(RUN, *_) = sample_runs(WHOLE)
LIKE = pack_key(RUN)


def found(together: int, **chosen: Any) -> Sizing:
    """As a worker tells it that has tried one run and `together`."""
    timings = [Timing(Placement(), 0.030, 500.0), Timing(Placement(together=together), 0.020, 600.0)]
    return Sizing("cpu", Placement(together=together, **chosen), tuple(timings), 0.1, 120, None, "no faster")


def packs(folder: Path, *settings: str) -> tuple[Packs, list[str]]:
    """The packs of a sweep of quickstart, and what is told to the user."""
    spec = load_study(QUICKSTART, settings)
    told = list[str]()
    return Packs(Study.of(spec), folder, 1, 1, told.append), told


def test_a_sweep_begins_with_one_run_a_worker_and_asks_for_no_more(tmp_path: Path) -> None:
    begun, told = packs(tmp_path)
    assert begun.placement == Placement(together=32, begin=0)
    assert (begun.together, told) == (1, [])


@pytest.mark.parametrize(("gpus", "sharing"), [("0", 3), ("0,1", 2), ("0,1,2,3", 1)])
def test_on_gpus_packs_may_be_larger_and_workers_know_how_many_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: str, sharing: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    begun = Packs(WHOLE, tmp_path, 3, 3, lambda _: None)
    assert begun.placement == Placement(together=128, begin=0, workers=3, sharing=sharing)


def test_workers_elsewhere_share_no_gpu_and_what_they_find_is_kept_apart_from_what_workers_here_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # of the machine that the sweep itself runs on
    there = Packs(WHOLE, tmp_path, 3, 3, lambda _: None, elsewhere=True)
    assert there.placement == Placement(together=128, begin=0, workers=3)
    there.update("worker-0", Sized(LIKE, 4, found(4)))
    assert Packs(WHOLE, tmp_path, 3, 3, lambda _: None, elsewhere=True).placement.begin == 4
    assert Packs(WHOLE, tmp_path, 3, 3, lambda _: None).placement.begin == 0


def test_a_study_that_says_how_many_is_taken_at_its_word(tmp_path: Path) -> None:
    begun, _ = packs(tmp_path, "resources.together=5")
    assert (begun.placement, begun.together) == (Placement(together=5), 5)
    begun.update("w", Sized(LIKE, 5, found(4)))
    assert begun.place(RUN, begun.placement) == Placement(together=5)


def test_where_a_worker_has_few_runs_none_is_left_to_join_a_pack(tmp_path: Path) -> None:
    begun, _ = packs(tmp_path, "variants={sigmoid: {}}", "budget.trials=2")
    assert (begun.placement, begun.together) == (Placement(), 1)


def test_the_sweep_follows_the_size_that_its_workers_are_at_and_says_once_what_they_found(tmp_path: Path) -> None:
    begun, told = packs(tmp_path)
    for together, sizing, expected in [(2, None, 2), (4, None, 4), (2, found(2), 2)]:
        begun.update("worker-0", Sized(LIKE, together, sizing))
        assert begun.together == expected
    begun.update("worker-1", Sized(LIKE, 4, None))
    assert begun.together == 4
    begun.forget("worker-1")
    begun.update("worker-0", Sized(LIKE, 2, found(2)))
    assert begun.together == 2
    assert len(told) == 1
    for part in ("train 2 together", "20.0 ms a micro-batch and run (30.0 ms alone)", "600 MiB", "takes about 0:01:00"):
        assert part in told[0]


def test_runs_that_are_handed_out_later_begin_with_what_was_found_of_runs_like_them(tmp_path: Path) -> None:
    begun, _ = packs(tmp_path)
    begun.update("worker-0", Sized(LIKE, 4, found(4)))
    begun.update("worker-1", Sized(LIKE, 2, found(2)))
    begun.update("worker-1", Sized("others", 8, found(8)))
    assert begun.place(RUN, begun.placement) == replace(begun.placement, begin=4)
    fewer = replace(begun.placement, together=1, split=2)  # as after a worker was killed for want of memory
    assert begun.place(RUN, fewer) == replace(fewer, begin=4)


def test_the_next_sweep_begins_with_the_size_found_if_it_trains_the_same_on_the_same_machine(tmp_path: Path) -> None:
    begun, _ = packs(tmp_path)
    begun.update("worker-0", Sized(LIKE, 4, found(4)))
    assert kept_sizing(WHOLE, tmp_path, 1) == found(4)
    again, told = packs(tmp_path)
    assert (again.placement, again.together) == (Placement(together=32, begin=4), 4)
    assert told == [describe(found(4), 24, 1)]
    assert packs(tmp_path, "base.per_device_train_batch_size=8")[0].placement.begin == 0


@pytest.mark.parametrize("longer", ["base.max_steps=4000", "base.gradient_accumulation_steps=8", "data.rows=64"])
def test_runs_of_another_length_begin_with_the_size_found_and_no_time_is_told_of_them(
    tmp_path: Path, longer: str
) -> None:
    packs(tmp_path)[0].update("worker-0", Sized(LIKE, 4, found(4)))
    again, told = packs(tmp_path, longer)
    assert again.placement.begin == 4
    assert "20.0 ms a micro-batch" in told[0]
    assert "takes about" not in told[0]


def test_what_a_pilot_of_an_earlier_version_chose_still_holds(tmp_path: Path) -> None:
    packs(tmp_path)[0].update("worker-0", Sized(LIKE, 4, found(4, bf16=True)))
    file = tmp_path / PILOT_FILE
    kept = json.loads(file.read_text())
    new = asdict(Placement(together=4)).keys() - {"together", "split", "checkpointing", "bf16"}
    for placement in (kept["pilot"]["chosen"], *(t["placement"] for t in kept["pilot"]["timings"])):
        for name in new:
            del placement[name]
    kept["pilot"]["evaluation_seconds"] = 1.0
    file.write_text(json.dumps(kept))
    assert packs(tmp_path)[0].placement == Placement(together=32, begin=4, bf16=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("chosen", {"together": "four"}), ("chosen", {"together": 10**9}), ("setup_seconds", math.nan), ("passes", 1e99)],
)
def test_numbers_of_a_kept_size_that_no_sweep_finds_are_as_none(tmp_path: Path, name: str, value: object) -> None:
    packs(tmp_path)[0].update("worker-0", Sized(LIKE, 4, found(4)))
    kept = json.loads((tmp_path / PILOT_FILE).read_text())
    kept["pilot"][name] = value
    (tmp_path / PILOT_FILE).write_text(json.dumps(kept))
    assert kept_sizing(WHOLE, tmp_path, 1) is None


@pytest.mark.parametrize("damage", ["", "{", '{"of": 1}', "[]"])
def test_a_damaged_file_is_as_none(tmp_path: Path, damage: str) -> None:
    packs(tmp_path)[0].update("worker-0", Sized(LIKE, 4, found(4)))
    (tmp_path / PILOT_FILE).write_text(damage)
    assert packs(tmp_path)[0].placement.begin == 0
