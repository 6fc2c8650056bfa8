"""The timed probe through the command line, by the formula trainer: order, recording, resumption, what it may touch."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dashboards.store.records import load_records
from studies.design.speed_probe import probe_round
from studies.records import PROBE, RunRecord, State
from studies.spec import Study, load_study
from sweeper.executors import Inline
from sweeper.executors.process.devices import usable_cores
from sweeper.folder.cleanup import scratch
from sweeper.loop.progress import Outcome, Screen
from sweeper.measuring.speed_probe import Probe
from sweeper.tracking.tracker import Tracker
from trainers.interface import Placement
from trainers.run_folder.results import CHECKPOINTS

Sweeper = Callable[..., Any]
Run = Callable[..., Any]
STUDY = """
study: paced
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, hinge: {}, robust: {base: {label_smoothing: 0.1}}, bco_pair: {}}
baseline: sigmoid
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 2}
runs: {blocks: [3]}
objective: {metric: ranking_gain}
"""
PROBED = STUDY + "probe: {rounds: 6, steps: 20}\n"
FEW = PROBED.replace(", robust: {base: {label_smoothing: 0.1}}, bco_pair: {}", "").replace("rounds: 6", "rounds: 5")
NOTING = FEW.replace("trainer: formula", "trainer: tests.sweeper.probe_trainers:Noting")
NOTING += "resources: {env: [NOTES, INTERRUPT]}\n"


@pytest.fixture
def run(sweeper: Sweeper, empty_mlflow: Path, tmp_path: Path) -> Run:
    """`run(study text, *options)`: the command `run` in `tmp_path`, inline unless the options say otherwise."""

    def call(text: str, *arguments: str) -> Any:
        (tmp_path / "study.yaml").write_text(text)
        if not (tmp_path / "mlflow.db").exists():
            shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
        return sweeper(tmp_path, "run", "study.yaml", *(arguments or ("--executor", "inline")))

    return call


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOTES", str(tmp_path / "notes.jsonl"))
    return tmp_path / "notes.jsonl"


def noted(file: Path) -> list[dict[str, Any]]:
    return [note for line in file.read_text().splitlines() if (note := json.loads(line))["timed"]]


def recorded(folder: Path) -> list[RunRecord]:
    return load_records(f"sqlite:///{folder}/mlflow.db", "paced")


def timed(folder: Path) -> list[RunRecord]:
    return [record for record in recorded(folder) if record.phase == PROBE]


def table(sweeper: Sweeper, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sweeper(folder, "table", "study.yaml", "--format", "json").stdout)
    return found


def order(text: str, folder: Path, number: int) -> list[str]:
    (folder / "study.yaml").write_text(text)
    spec = load_study(folder / "study.yaml")
    return [config.variant for config in probe_round(Study.of(spec), number)]


def test_variants_take_turns_and_each_pair_of_rounds_mirrors_itself(tmp_path: Path) -> None:
    rounds = [order(PROBED, tmp_path, number) for number in range(8)]
    assert all(set(names) == {"sigmoid", "hinge", "robust", "bco_pair"} for names in rounds)
    assert all(rounds[i] == rounds[i + 1][::-1] for i in range(0, 8, 2))
    assert Counter(names[0] for names in rounds) == dict.fromkeys(rounds[0], 2)


def test_all_runs_of_a_round_have_the_same_data_seed_and_shared_knobs(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(PROBED + "scenarios: {few: {rows: 64}, clean: {}}\n")
    spec = load_study(tmp_path / "study.yaml")
    for number in (0, 5):
        configs = probe_round(Study.of(spec), number)
        assert {(c.scenario, c.data.rows, c.block, c.seed) for c in configs} == {("few", 64, 3, number)}
        assert {c.settings["max_steps"] for c in configs} == {20}
        assert [c.settings["beta"] for c in configs] == pytest.approx(
            [0.1] * 4
        )  # the middle of .01 to 1, on a log scale


def test_an_arm_of_fixed_points_is_timed_at_its_first(tmp_path: Path) -> None:
    text = PROBED.replace("hinge: {}", "ours: {loss_type: hinge, points: [{beta: 0.7}, {beta: 0.2}]}")
    (tmp_path / "study.yaml").write_text(text)
    spec = load_study(tmp_path / "study.yaml")
    (own,) = [c for c in probe_round(Study.of(spec), 0) if c.variant == "ours"]
    assert (own.settings["beta"], own.knobs) == (0.7, {"beta": 0.7})


UNLIKE = PROBED.replace("hinge: {}", "hinge: {base: {lora_r: 16, per_device_train_batch_size: 4}}").replace(
    "bco_pair: {}", "bco_pair: {base: {bf16: true, lora_target_modules: [v_proj, q_proj]}}"
)


def test_plan_warns_where_variants_differ_in_more_than_their_loss(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(UNLIKE)
    said = " ".join(sweeper(tmp_path, "plan", "study.yaml").stdout.split())
    assert (
        "Warning: the timed runs differ in per_device_train_batch_size (8: sigmoid, robust, bco_pair; 4: hinge)" in said
    )
    assert "lora_r (8: sigmoid, robust, bco_pair; 16: hinge)" in said
    assert "lora_target_modules (None: sigmoid, hinge, robust; q_proj, v_proj: bco_pair)" in said
    assert "bf16 (None: sigmoid, hinge, robust; True: bco_pair)" in said


@pytest.mark.parametrize(
    "text",
    [
        PROBED,  # label_smoothing and beta are the losses' own
        PROBED.replace("hinge: {}", "hinge: {base: {per_device_train_batch_size: 8, gradient_checkpointing: true}}"),
        PROBED.replace("space: {", "space: {lora_r: {values: [4, 8]}, ").replace("lora_r: 8, ", ""),
        UNLIKE.split("probe:")[0],
    ],
)
def test_plan_does_not_warn_of_what_is_the_same_or_the_losses_own(sweeper: Sweeper, tmp_path: Path, text: str) -> None:
    (tmp_path / "study.yaml").write_text(text)
    shown = sweeper(tmp_path, "plan", "study.yaml")
    assert shown.returncode == 0, shown.stderr
    assert "Warning" not in shown.stdout


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_timed_runs_follow_each_other_in_one_process_after_all_others(
    run: Run, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    done = run(NOTING, "--executor", executor, "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 runs trained" in done.stdout  # 2 variants: 2 trials, 5 rounds
    found = noted(notes)
    expected = [name for number in range(5) for name in order(NOTING, tmp_path, number)]
    assert [note["variant"] for note in found] == expected
    assert [note["round"] for note in found] == [number for number in range(5) for _ in range(2)]
    assert {(note["steps"], note["block"], note["process"]) for note in found} == {(20, 3, found[0]["process"])}
    assert all(a["ended"] <= b["began"] for a, b in pairwise(found))
    others = [json.loads(line) for line in notes.read_text().splitlines()]
    assert max(note["ended"] for note in others if not note["timed"]) < found[0]["began"]
    if executor == "process":
        assert {note["threads"] for note in found} == {str(usable_cores())}
    assert {(r.state, r.attempt) for r in timed(tmp_path)} == {(State.COMPLETE, 1)}
    assert not list((tmp_path / "runs" / "paced").glob("probe*"))


def test_what_is_timed_is_not_timed_again(run: Run, notes: Path, tmp_path: Path) -> None:
    run(NOTING)
    again = run(NOTING)
    assert "0 runs trained, 14 were there already" in again.stdout
    assert len(noted(notes)) == 10
    more = run(NOTING.replace("rounds: 5", "rounds: 6"))
    assert "2 runs trained, 14 were there already" in more.stdout
    assert [note["round"] for note in noted(notes)[10:]] == [5] * 2
    assert len(timed(tmp_path)) == 12


def test_an_interrupted_round_is_timed_whole_again(
    run: Run, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = order(NOTING, tmp_path, 2)
    monkeypatch.setenv("INTERRUPT", f"{cut[1]} 2")
    stopped = run(NOTING)
    assert stopped.returncode == 1, stopped.stdout
    assert "Go on with: sweeper run study.yaml" in stopped.stdout
    assert Counter(r.seed for r in timed(tmp_path)) == {0: 2, 1: 2, 2: 1}
    assert run(NOTING).returncode == 0
    assert Counter(r.seed for r in timed(tmp_path)) == dict.fromkeys(range(5), 2)
    assert [note["variant"] for note in noted(notes) if note["round"] == 2] == [*cut, *cut]


def test_a_timed_run_never_goes_on_from_what_a_killed_sweep_left(run: Run, notes: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "paced").mkdir(parents=True)
    (tmp_path / "runs" / "paced" / "sweep.lock").touch()
    for variant in ("sigmoid", "hinge"):
        (scratch(tmp_path / "runs" / "paced", f"probe-0-{variant}") / CHECKPOINTS / "checkpoint-3").mkdir(parents=True)
    assert run(NOTING).returncode == 0
    assert [note["left"] for note in noted(notes)] == [[]] * 10


def test_another_variant_or_setting_has_all_rounds_timed_again(run: Run, notes: Path, tmp_path: Path) -> None:
    run(NOTING)
    first = {r.run_id for r in timed(tmp_path)}
    assert run(NOTING.replace("hinge: {}", "hinge: {}, ipo: {}")).returncode == 0
    second = timed(tmp_path)
    assert not first & {r.run_id for r in second}
    assert Counter(r.variant for r in second) == dict.fromkeys(["sigmoid", "hinge", "ipo"], 5)
    run(NOTING.replace("hinge: {}", "hinge: {}, ipo: {}").replace("steps: 20", "steps: 30"))
    assert not {r.run_id for r in second} & {r.run_id for r in timed(tmp_path)}
    assert len(timed(tmp_path)) == 15


def test_a_probe_changes_nothing_of_the_trials(sweeper: Sweeper, run: Run, tmp_path: Path) -> None:
    """Of trials, bests, means, failures, grids, counts and what is exported."""
    grid = ("table", "study.yaml", "--rows", "beta", "--columns", "learning_rate", "--format", "csv")
    text = FEW.split("probe:")[0].replace("space: {", "space: {learning_rate: {low: 1.0e-6, high: 1.0e-4, log: true}, ")
    run(text)
    before = table(sweeper, tmp_path)
    cells, status = sweeper(tmp_path, *grid).stdout, sweeper(tmp_path, "status", "study.yaml").stdout
    done = run(text + "probe: {rounds: 5, steps: 20}\n")
    assert "10 runs trained, 4 were there already" in done.stdout
    after = table(sweeper, tmp_path)
    for old, new in zip(before["rows"], after["rows"], strict=True):
        assert old.pop("pace") is None
        assert new.pop("pace")["rounds"] == 5
        assert (old["run_ids"].pop("pace"), len(new["run_ids"].pop("pace"))) == ([], 5)
    assert after["rows"] == before["rows"]
    assert sweeper(tmp_path, *grid).stdout == cells
    counted = sweeper(tmp_path, "status", "study.yaml").stdout
    lines = [[line for line in text.splitlines() if "not running" not in line] for text in (counted, status)]
    assert lines[0] == [*lines[1], "timed alone: 10 of 10 runs."]
    assert {name for r in timed(tmp_path) for name in r.metrics} == {
        *("steps_per_second", "tokens_per_second", "peak_memory", "train_seconds", "evaluation_seconds")
    }
    assert sweeper(tmp_path, "export", "study.yaml", "--variant", "hinge", "--trial", "0").returncode == 0
    assert "max_steps: 6" in (tmp_path / "best.yaml").read_text()


def test_speed_claims_are_judged_by_it(sweeper: Sweeper, run: Run, tmp_path: Path) -> None:
    """In the formula robust is slower by a fifth and the others are as fast, behind a noise of 20 % between rounds."""
    run(PROBED)
    found = table(sweeper, tmp_path)
    words = {row["variant"]: row["pace"]["word"] for row in found["rows"]}
    assert words == {"sigmoid": None, "hinge": "as fast", "robust": "slower", "bco_pair": "as fast"}
    rulings = {v["claim"]["id"]: v["ruling"] for v in found["verdicts"] if v["claim"]["column"] == "Speed"}
    assert (rulings["hinge-speed"], rulings["robust-speed"]) == ("supported", "refuted")
    assert rulings["bco_pair-speed"] == "refuted"  # the guide has it slower
    assert rulings["ipo-speed"] == "not testable here"
    (robust,) = [row["pace"] for row in found["rows"] if row["variant"] == "robust"]
    assert robust["ratio"]["low"] < 0.8 < robust["ratio"]["high"]
    assert robust["spread"] > 1.2
    text = sweeper(tmp_path, "table", "study.yaml").stdout
    assert "as fast" in text
    assert "slower" in text


@pytest.mark.parametrize("act", ["raise once", "raise"])
def test_a_run_that_the_machine_fails_is_tried_again_and_ends_the_probe_if_that_does_not_help(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    notes = tmp_path / "tries"
    notes.mkdir()
    monkeypatch.setenv("NOTES", str(notes))
    monkeypatch.setenv("FAILURES", json.dumps({"hinge": act}))
    text = FEW.replace("trainer: formula", "trainer: tests.sweeper.failing_trainers:Failing")
    done = run(text + "resources: {retry_after: 0}\n")
    found = Counter((r.state, r.attempt) for r in timed(tmp_path) if r.variant == "hinge")
    if act == "raise once":
        assert done.returncode == 0, done.stdout
        assert found == {(State.COMPLETE, 2): 5}
    else:
        assert done.returncode == 1
        assert "The probe ends: hinge cannot be timed (infrastructure). OSError: no space left on device" in done.stdout
        assert found == {(State.FAIL, 3): 1}


def test_a_spent_budget_ends_the_probe(empty_mlflow: Path, tmp_path: Path) -> None:
    text = PROBED.replace("trials: 2", "trials: 2, wall_clock: 60s")
    (tmp_path / "study.yaml").write_text(text)
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    spec = load_study(tmp_path / "study.yaml")
    tracker = Tracker(None, tmp_path)
    tracker.open_study(spec, text)
    said: list[str] = []
    began = time.monotonic() - 100
    screen = Screen(lambda _: None, said.append)
    probe = Probe(Study.of(spec), tracker, tmp_path / "runs" / "paced", screen, began)
    ended = probe.run(Inline("formula"), Placement(), Outcome(8, 0, {}, stopped=False))
    assert ended == Outcome(8, 0, {}, stopped=True)
    assert "the wall-clock budget of 60 s is spent" in said[-1]
    assert timed(tmp_path) == []


def test_plan_tells_what_is_timed(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(PROBED)
    shown = sweeper(tmp_path, "plan", "study.yaml").stdout
    assert "6 rounds of 20 steps, 24 more runs and 480 steps, on the data of clean." in shown


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("rounds: 6", "rounds: 4"), "probe.rounds: 4 must be at least 5"),
        (("steps: 20", "steps: 19"), "probe.steps: 19 must be at least 20"),
        (("rounds: 6", "rounds: 5000"), "at most 1000"),
        (("rounds: 6", "runds: 6"), "probe.runds: unknown key (did you mean rounds?)"),
        (("baseline: sigmoid", "mode: search"), "probe: compares the pace of variants"),
        ((", hinge: {}, robust: {base: {label_smoothing: 0.1}}, bco_pair: {}", ""), "probe: has one variant to time"),
    ],
)
def test_a_probe_that_makes_no_sense_is_refused(
    sweeper: Sweeper, tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    assert change[0] in PROBED
    (tmp_path / "study.yaml").write_text(PROBED.replace(*change))
    refused = sweeper(tmp_path, "plan", "study.yaml")
    assert refused.returncode == 2
    assert said in refused.stderr
