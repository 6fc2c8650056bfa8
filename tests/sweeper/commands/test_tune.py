"""Facts about `sweeper tune`: the file that it knows again, the speed test, what it refuses, how it goes on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from dashboards.store.records import load_records
from sweeper.commands.starter import text as starter_text
from sweeper.commands.tune import Asked, Speed, SpeedTest, chosen_replicates, why_not_ours
from sweeper.loop.progress import Progress
from tests.sweeper.conftest import Sweeper


def so_far(done: int, training: int = 0) -> Progress:
    return Progress(100, done, training, {}, None, None)


# ---- the speed test


def test_a_speed_test_ends_once_each_loss_has_tried_its_settings_for_a_while() -> None:
    test = SpeedTest(3600.0, losses=3, trials=4, began=0.0)
    assert not test.look(so_far(0), 50.0), "workers start"
    assert not test.look(so_far(0, 8), 60.0)
    assert not test.look(so_far(12, 8), 70.0), "packs are still finding their size"
    assert not test.look(so_far(11, 8), 120.0)
    assert test.look(so_far(12, 8), 140.0)
    assert test.found.a_run == pytest.approx(80 / (12 + 4)), "what trains is half done"
    assert test.found.allowed == int(((0.9 * (3600 - 140) - 40) / 5 + 16) / 15)
    assert not test.look(so_far(40, 8), 200.0), "it is settled once"


def test_runs_that_were_there_before_are_no_measure_of_speed() -> None:
    test = SpeedTest(3600.0, losses=3, trials=4, began=0.0)
    test.look(so_far(30), 10.0)
    test.look(so_far(30, 8), 20.0)
    assert not test.look(so_far(40, 8), 100.0)


def test_a_speed_test_of_long_runs_ends_with_fewer_of_them() -> None:
    for trained, share in ((3, 0.25), (1, 0.5)):
        test = SpeedTest(1000.0, losses=3, trials=4, began=0.0)
        test.look(so_far(0, 1), 10.0)
        assert not test.look(so_far(trained, 1), 1000 * share)
        assert test.look(so_far(trained, 1), 1000 * share + 10)
    assert not SpeedTest(1000.0, 3, 4, 0.0).look(so_far(0, 1), 900.0), "nothing has ended"


@pytest.mark.parametrize(("allowed", "most", "chosen"), [(100, 24, 24), (7, 24, 7), (1, 24, 3), (0, 12, 3), (9, 3, 3)])
def test_replicates_are_as_many_as_hours_and_data_do_for(allowed: int, most: int, chosen: int) -> None:
    assert chosen_replicates(Speed(12, 30.0, 2.0, allowed), most) == chosen


def test_what_a_speed_test_found_is_a_sentence() -> None:
    speed = Speed(12, 30.0, 2.0, 20)
    assert speed.in_words(8.0, 8, 20) == "12 runs in 30 s, so that one takes 2 s in all: 8h do for 20 replicates, not 8"
    assert "8h do for the 8 replicates that were guessed" in speed.in_words(8.0, 8, 8)
    assert "3m may not do for the least, 3 replicates" in Speed(2, 30.0, 90.0, 1).in_words(0.05, 8, 3)


# ---- the file


def test_the_file_is_named_after_model_and_data(tmp_path: Path) -> None:
    asked = Asked("Qwen/Qwen2.5-0.5B-Instruct", "my data/pairs.jsonl.gz", 8.0)
    assert asked.file == Path("Qwen2-5-0-5B-Instruct-pairs.yaml")
    assert Asked("embedded", "embedded", 8.0, output=str(tmp_path)).file == tmp_path / "embedded.yaml"
    assert Asked("embedded", "embedded", 8.0, output="out/a.yaml").file == Path("out/a.yaml")


def test_a_file_is_known_again_by_its_arguments(tmp_path: Path) -> None:
    asked, other = Asked("embedded", "embedded", 8.0), Asked("embedded", "embedded", 7.0)
    file = tmp_path / "mine.yaml"
    file.write_text(f"# arguments: {asked.digest}\nstudy: edited\n")
    assert why_not_ours(file, asked) is None
    assert "written by another `sweeper tune` command" in str(why_not_ours(file, other))
    file.write_text("study: mine\n")
    assert "is not of this command" in str(why_not_ours(file, asked))
    file.unlink()
    file.mkdir()
    assert str(file) in str(why_not_ours(file, asked))


# ---- the command


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies whose runs are answered from a formula, in this process."""
    real = starter_text.study_text

    def by_formula(*given: object) -> str:
        text = real(*given).replace("\nstudy:", "\ntrainer: formula\nstudy:", 1)
        text = text.replace("low: 3.0e-4, high: 1.5e-3", "low: 1.0e-6, high: 1.0e-5")
        return text.replace("{metric: gold, at_drift: 1.0, tie_within: 0.03}", "{metric: ranking_gain}")

    monkeypatch.setattr(starter_text, "study_text", by_formula)
    monkeypatch.setattr("sweeper.commands.starter.design._SIZES", ((2, 3),))
    monkeypatch.setattr("sweeper.commands.starter.design._MOST_REPLICATES", 4)
    monkeypatch.setattr("sweeper.commands.tune._STEADY_SECONDS", 0.0)


def tune(sweeper: Sweeper, folder: Path, *more: str) -> str:
    ended = sweeper(folder, "tune", "--executor", "inline", *more)
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return " ".join(ended.stdout.split())


@pytest.mark.usefixtures("quick")
def test_one_command_designs_plans_trains_and_exports(sweeper: Sweeper, tmp_path: Path) -> None:
    told = tune(sweeper, tmp_path, "--hours", "1")
    assert "Plan (embedded.yaml): sigmoid, robust and ipo, each tuned by 2 settings" in told
    assert "What it can conclude: 3 replicates find a difference to sigmoid" in told
    assert "1h do for 4 replicates, not 3." in told
    assert "Start with " in told
    text = (tmp_path / "embedded.yaml").read_text()
    assert "\nreplicates: 4 " in text
    assert "not made" not in text
    runs = load_records(f"sqlite:///{tmp_path / 'mlflow.db'}", "embedded")
    assert {run.scenario for run in runs} == {f"clean#{number}" for number in range(1, 5)}
    assert "learning_rate" in yaml.safe_load((tmp_path / "best.yaml").read_text())

    file = tmp_path / "embedded.yaml"
    file.write_text(re.sub(r"question: .*\n", "question: Edited?\n", text))
    again = tune(sweeper, tmp_path, "--hours", "1")
    assert "Going on with embedded.yaml" in again
    assert "0 runs trained" in again
    assert "Speed test" not in again


def test_everything_that_is_wrong_is_told_before_anything_is_made(sweeper: Sweeper, tmp_path: Path) -> None:
    wrong = sweeper(tmp_path, "tune", "--model", str(tmp_path), "--data", "no.jsonl", "--hours", "0", "--gpus", "99")
    assert wrong.returncode == 2
    for said in ("--hours 0: must be above 0", "--gpus 99: this machine shows", "no config.json", "--data no.jsonl"):
        assert said in wrong.stderr, said
    assert list(tmp_path.iterdir()) == []


def test_data_that_no_run_could_use_leave_nothing(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "Q", "chosen": "a", "rejected": "a"}\n')
    wrong = sweeper(tmp_path, "tune", "--model", "org/none", "--data", "p.jsonl")
    assert wrong.returncode == 2
    assert "are equal, which teaches nothing" in wrong.stderr
    assert [place.name for place in tmp_path.iterdir()] == ["p.jsonl"]


def test_the_embedded_model_and_own_data_do_not_go_together(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "Q", "chosen": "a", "rejected": "b"}\n' * 3)
    for given in (("--data", "p.jsonl"), ("--model", "org/none")):
        wrong = sweeper(tmp_path, "tune", "--output", "new/a.yaml", *given)
        assert wrong.returncode == 2, wrong.stdout
        assert "name your" in wrong.stderr
        assert [place.name for place in tmp_path.iterdir()] == ["p.jsonl"]


@pytest.mark.usefixtures("quick")
def test_files_of_others_are_left_alone(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "embedded.yaml").write_text("study: mine\n")
    (tmp_path / "best.yaml").write_text("# study other, variant sigmoid\n")
    wrong = sweeper(tmp_path, "tune", "--executor", "inline")
    assert wrong.returncode == 2
    assert "embedded.yaml is not of this command" in wrong.stderr
    assert "best.yaml: is there already and of another study" in wrong.stderr
    assert sorted(place.name for place in tmp_path.iterdir()) == ["best.yaml", "embedded.yaml"]
