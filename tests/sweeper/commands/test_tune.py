"""Facts about `sweeper tune`: what fits into the hours, the file that it knows again, what it refuses, what it does."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from transformers import LlamaConfig

from dashboards.store.records import load_records
from sweeper.commands.starter import text as starter_text
from sweeper.commands.starter.cost import Machine
from sweeper.commands.starter.design import Design, as_wished, timed
from sweeper.commands.starter.facts import look
from sweeper.commands.tune import Asked, plan_lines, too_few_hours, what_shows_more, why_not_ours
from sweeper.measuring.run_time import NoRunTime, RunTime, TooSlow
from tests.sweeper.commands.test_starter import facts
from tests.sweeper.conftest import Sweeper
from tests.trainers.tiny_models import SIZES, a_model

QUICK = RunTime(workers=2, setup=0.5, step_alone=0.04, step=0.01, measuring=0.5, draw=1.0, spent=20.0)


def wished(hours: float = 8.0) -> Design:
    return as_wished(facts(5000), hours, Machine(2, gpu=False))


def slower(times: float) -> RunTime:
    return replace(QUICK, setup=times * QUICK.setup, step=times * QUICK.step, measuring=times * QUICK.measuring)


# ---- what fits into the hours


def test_a_run_takes_its_steps_its_measurements_and_its_share_of_the_draws() -> None:
    assert QUICK.of_run(steps=100, measurements=2, runs=100) == pytest.approx(0.5 + 1.0 + 1.0)
    assert QUICK.of_run(steps=100, measurements=2, runs=7) == pytest.approx(0.5 + 4.0 + 1.0), (
        "too few to train in packs"
    )
    assert QUICK.of_draws(draws=3, runs=12) == pytest.approx(6.0), "each worker reads the draw"
    assert QUICK.of_draws(draws=3, runs=1) == pytest.approx(3.0)
    made = timed(wished(), QUICK, 8 * 3600.0)
    each = QUICK.of_run(made.steps, 1, made.runs)
    assert made.seconds == pytest.approx((made.runs * each + made.replicates * 2 * 2 * 1.0) / 2 + 40)


def test_hours_that_are_left_are_spent_on_replicates_and_no_more_than_the_data_have() -> None:
    hours = (0.08, 0.1, 0.12, 8.0)
    made = [timed(wished(), QUICK, each * 3600.0) for each in hours]
    counts = [one.replicates for one in made]
    assert counts == sorted(counts)
    assert counts[0] < counts[1] < counts[-1] == wished().most_replicates == 24
    assert all(one.fits and one.seconds <= 0.9 * each * 3600 for one, each in zip(made, hours, strict=True))


def test_a_study_whose_runs_take_long_is_cut_down_until_it_fits() -> None:
    sizes = [timed(wished(), slower(times), 8 * 3600.0) for times in (1, 60, 150, 250)]
    assert [one.fits for one in sizes] == [True] * 4
    assert [one.runs for one in sizes] == sorted((one.runs for one in sizes), reverse=True)
    assert sizes[-1].trials < 4


def test_runs_that_are_read_at_a_drift_are_not_cut_short() -> None:
    embedded = as_wished(look("embedded", "embedded", lambda _: None), 8.0, Machine(2, gpu=False))
    made = [timed(embedded, slower(times), 8 * 3600.0) for times in (1, 60, 150, 1000)]
    assert {one.steps for one in made} == {embedded.steps}
    assert len(made[-1].variants) == 2, "fewer settings and losses are taken"


def test_hours_that_do_for_nothing_are_told_with_those_that_would() -> None:
    asked, slow = Asked("org/m", "p.jsonl", 1.0), slower(1000)
    smallest = timed(wished(), slow, 3600.0)
    assert not smallest.fits
    told = too_few_hours(asked, smallest, spent=60.0)
    assert "--hours 1: too few. The smallest study that compares losses takes about" in told
    assert "sigmoid and ipo, each tuned by 2 settings on one draw" in told
    hours = float(re.search(r"give --hours ([0-9.e+]+)\.$", told)[1])
    assert timed(wished(), slow, hours * 3600 - 60).fits
    assert not timed(wished(), slow, 0.8 * hours * 3600).fits, "and not far more than that"


NOTHING = "This plan can show no difference that matters: it would take 10 replicates. Of stability: none."


def test_a_plan_that_can_show_nothing_says_what_would_show_more() -> None:
    made = timed(wished(), slower(250), 8 * 3600.0)
    told = plan_lines(made, Path("a.yaml"), NOTHING, "--hours 9")
    assert told[-2:] == [
        "What would show more: --hours 9. It trains nevertheless; Ctrl-C ends it.",
        "No judge is given, so the answer ranks losses and names no winner: --judge-model ORG/REWARD-MODEL or "
        "--judge-function MODULE:NAME names one.",
    ]
    told = plan_lines(replace(made, judge="{function: a:b}"), Path("a.yaml"), "3 replicates find a difference.", "-")
    assert told[-1] == "What it can conclude: 3 replicates find a difference."
    embedded = as_wished(look("embedded", "embedded", lambda _: None), 8.0, Machine(2, gpu=False))
    assert "No judge" not in " ".join(plan_lines(embedded, Path("a.yaml"), "", "-")), "its true reward is known"


def test_hours_that_show_more_are_those_of_the_replicates_that_do() -> None:
    slow = slower(250)
    made = timed(wished(), slow, 8 * 3600.0)
    asked = Asked("embedded", "my pairs.jsonl", 8.0)
    more = what_shows_more(wished(), asked, slow, made.replicates + 4)
    hours = float(re.search(r"^`--hours ([0-9.e+]+) --output (embedded-my-pairs-[0-9.e+]+h)/\2.yaml`$", more)[1])
    assert timed(wished(), slow, hours * 3600 - slow.spent).replicates >= made.replicates + 4
    assert timed(wished(), slow, 0.8 * hours * 3600 - slow.spent).replicates < made.replicates + 4
    assert "more prompts" in what_shows_more(wished(), asked, slow, made.most_replicates + 1)
    assert "data.eval_rows" in what_shows_more(wished(), asked, slow, None)


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
    file.write_text("\n".join(f"# {line}" for line in asked.head("")))
    assert "--hours 8: go on with it by these hours" in str(why_not_ours(file, other))
    assert f"for 7 hours beside it with --output {tmp_path}/mine-7h/mine-7h.yaml." in str(
        why_not_ours(file, replace(other, output=str(file)))
    )
    assert "another `sweeper tune` command" in str(why_not_ours(file, replace(other, data="more.jsonl")))
    for edited in ("8.8.8", "-", "e", "8,"):
        file.write_text(file.read_text().replace("--hours 8", f"--hours {edited}"))
        assert "another `sweeper tune` command" in str(why_not_ours(file, other)), edited
        file.write_text(file.read_text().replace(f"--hours {edited}", "--hours 8"))
    fine = replace(asked, hours=0.12345678)
    file.write_text("\n".join(f"# {line}" for line in fine.head("")))
    assert "--hours 0.12345678: go on with it" in str(why_not_ours(file, other))
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
    monkeypatch.setattr("sweeper.measuring.run_time._STEADY_SECONDS", 0.0)


def tune(sweeper: Sweeper, folder: Path, *more: str) -> str:
    ended = sweeper(folder, "tune", "--executor", "inline", *more)
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return " ".join(ended.stdout.split())


@pytest.mark.usefixtures("quick")
def test_one_command_designs_plans_trains_and_exports(sweeper: Sweeper, tmp_path: Path) -> None:
    told = tune(sweeper, tmp_path, "--hours", "1")
    assert "Plan (embedded.yaml): sigmoid, robust and ipo, each tuned by 2 settings" in told
    assert re.search(r"Speed test \(\d+ s\): with 1 worker at once, a run takes one of them ", told)
    assert re.search(r"4 times: 36 runs, about \d\d seconds on 1 core\.", told)
    assert "What it can conclude: 4 replicates find a difference to sigmoid" in told
    assert "Start with " in told
    text = (tmp_path / "embedded.yaml").read_text()
    assert "\nreplicates: 4 " in text
    assert "# speed test: with 1 worker at once" in text
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


def test_data_too_small_for_a_study_are_refused_before_anything_trains(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "Q", "chosen": "a good one", "rejected": "a bad one"}\n' * 2)
    model = a_model(tmp_path / "model", LlamaConfig(**SIZES))
    wrong = sweeper(tmp_path, "tune", "--model", model, "--data", "p.jsonl", "--executor", "inline")
    assert wrong.returncode == 2
    assert "no training pairs left of 2 read" in wrong.stderr
    assert "Speed test" not in wrong.stdout
    assert not (tmp_path / "mlflow.db").exists()


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


@pytest.fixture
def untested(monkeypatch: pytest.MonkeyPatch) -> None:
    """A speed test that must not begin."""

    def begun(*_: object) -> None:
        raise AssertionError("the speed test began")

    monkeypatch.setattr("sweeper.measuring.run_time.measure_run_time", begun)


@pytest.mark.usefixtures("untested")
def test_what_could_not_be_kept_is_told_before_the_speed_test(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.txt").touch()
    inside = sweeper(tmp_path, "tune", "--output", "p.txt/new/a.yaml")
    assert (inside.returncode, "p.txt: is no folder." in inside.stderr) == (2, True), inside.stderr
    monkeypatch.setattr("os.access", lambda *_: False)
    closed = sweeper(tmp_path, "tune")
    assert (closed.returncode, "nothing can be written there" in closed.stderr) == (2, True), closed.stderr
    assert [place.name for place in tmp_path.iterdir()] == ["p.txt"]


@pytest.mark.usefixtures("untested")
@pytest.mark.parametrize("executor", ["slurm", "hosts"])
def test_for_workers_elsewhere_the_two_commands_that_do_it_are_named(
    sweeper: Sweeper, tmp_path: Path, executor: str
) -> None:
    wrong = sweeper(tmp_path, "tune", "--executor", executor)
    assert wrong.returncode == 2
    assert f"`sweeper init FILE`, and run it with `sweeper run FILE --executor {executor}`" in wrong.stderr
    assert not list(tmp_path.iterdir())


def test_an_executor_that_there_is_not_is_refused(sweeper: Sweeper, tmp_path: Path) -> None:
    wrong = sweeper(tmp_path, "tune", "--executor", "cluster")
    assert (wrong.returncode, "valid are" in wrong.stderr) == (2, True), wrong.stderr


@pytest.mark.usefixtures("untested")
def test_the_name_of_another_study_is_refused_before_the_speed_test(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "runs" / "embedded" / "mine.txt"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    wrong = sweeper(tmp_path, "tune")
    assert (wrong.returncode, "holds files that no sweep has made" in wrong.stderr) == (2, True), wrong.stderr
    foreign.unlink()
    monkeypatch.setattr("dashboards.store.records.load_records", lambda *_: ["a run", "another"])
    wrong = sweeper(tmp_path, "tune")
    assert wrong.returncode == 2
    assert "2 runs of a study embedded are recorded here, and its file embedded.yaml is not there" in wrong.stderr


@pytest.mark.usefixtures("quick")
def test_a_file_that_was_written_during_the_speed_test_is_left_alone(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(*_: object) -> RunTime:
        (tmp_path / "embedded.yaml").write_text("of another")
        return QUICK

    monkeypatch.setattr("sweeper.measuring.run_time.measure_run_time", meanwhile)
    wrong = sweeper(tmp_path, "tune", "--executor", "inline")
    assert (wrong.returncode, "has written it meanwhile" in wrong.stderr) == (2, True), wrong.stderr
    assert (tmp_path / "embedded.yaml").read_text() == "of another"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NoRunTime("refused: no such layer"), "Speed test: refused: no such layer"),
        (TooSlow("in 9 s no run came far."), "came far. Nothing was written; --hours 0.67 gives it twice as long."),
        (OSError(28, "No space left on device"), "Speed test: [Errno 28] No space left"),
        (RuntimeError("the workers cannot be run any more"), "Speed test: the workers cannot be run any more"),
    ],
)
def test_why_a_speed_test_found_nothing_is_told(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fails(*_: object) -> RunTime:
        raise error

    monkeypatch.setattr("sweeper.measuring.run_time.measure_run_time", fails)
    ended = sweeper(tmp_path, "tune", "--hours", "0.01")
    assert (ended.returncode, told in " ".join(ended.stderr.split())) == (2, True), ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_speed_test_that_is_stopped_cleans_up(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    cleaned: list[bool] = []
    before = signal.getsignal(number)

    def long(*_: object) -> RunTime:
        assert signal.getsignal(number) is not signal.SIG_DFL, "or the tests end here"
        try:
            os.kill(os.getpid(), number)
            raise AssertionError("it went on")
        finally:
            cleaned.append(True)

    monkeypatch.setattr("sweeper.measuring.run_time.measure_run_time", long)
    ended = sweeper(tmp_path, "tune")
    assert (ended.returncode, cleaned) == (1, [True]), ended.stdout + ended.stderr
    assert "Stopped; nothing was written. Again with: sweeper tune" in ended.stdout
    assert signal.getsignal(number) is before
    assert not list(tmp_path.iterdir())
