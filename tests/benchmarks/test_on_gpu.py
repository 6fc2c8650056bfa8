"""The check of a GPU: its plan, its limits, what it writes down; and all of it on a CPU, with everything small."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from pathlib import Path

import pytest

from tests.benchmarks import on_gpu
from tests.benchmarks.gpu_stages.figures import Figures, is_bad, read_figures, recap
from tests.benchmarks.gpu_stages.plan import FIRST, GROUPS, SECOND, STAGES, Stage, chosen, limit

TEN_MINUTES = 600.0


def one_after_another(stages: list[Stage], budget: float, *, hang: bool) -> dict[str, float]:
    """The limits of stages that take what they are expected to, or all that they may."""
    found = {}
    for i, stage in enumerate(stages):
        allowed = limit(stage, stages[i + 1 :], budget)
        if allowed is not None:
            found[stage.name] = allowed
            budget -= allowed if hang else stage.seconds
    assert budget >= 0
    return found


def test_each_group_fits_into_ten_minutes_also_where_every_stage_hangs() -> None:
    for group in (FIRST, SECOND):
        for hang in (False, True):
            found = one_after_another(list(group), TEN_MINUTES, hang=hang)
            assert [*found] == [stage.name for stage in group]
            assert all(found[stage.name] >= stage.seconds for stage in group)


def test_one_stage_that_hangs_takes_no_time_that_another_needs() -> None:
    for i, stage in enumerate(FIRST):
        allowed = limit(stage, FIRST[i + 1 :], sum(s.seconds for s in FIRST[i:]))
        assert allowed == stage.seconds


def test_of_a_short_budget_the_last_in_order_of_value_are_left_out() -> None:
    budget = FIRST[0].seconds + FIRST[1].seconds + 20
    assert [*one_after_another(list(FIRST), budget, hang=False)] == [stage.name for stage in FIRST[:2]]
    assert limit(FIRST[0], FIRST[1:], FIRST[0].seconds - 1) is None


def test_a_stage_by_itself_may_take_a_long_budget() -> None:
    assert limit(FIRST[0], [], 600) > 2 * FIRST[0].seconds


def test_stages_stand_in_order_of_value_and_each_is_chosen_once() -> None:
    assert [stage.name for stage in FIRST] == [
        *("environment", "pack-135m", "parity", "quickstart", "sampling-135m", "ladder-135m"),
    ]
    assert chosen(["first", "second"]) == [*FIRST, *SECOND]
    assert chosen(["parity", "first"]) == [STAGES["parity"], *(s for s in FIRST if s.name != "parity")]
    assert not {*GROUPS} & {*STAGES}


def test_every_stage_has_a_module_and_every_line_that_decides_is_described() -> None:
    for stage in STAGES.values():
        assert importlib.util.find_spec(f"tests.benchmarks.gpu_stages.{stage.module}")
        for line in stage.decides:
            assert f"`{line}`" in str(on_gpu.__doc__), line


def test_what_fails_is_a_line_and_leaves_the_rest_of_a_stage(tmp_path: Path) -> None:
    figures = Figures(tmp_path, "parity")
    with figures.part("float32"):
        raise ValueError("no kernel")
    with figures.part("bf16"):
        figures.note("bf16", ratio=1.2345678, holds=True, each=[1.23456789])
    first, second = read_figures(tmp_path)
    assert (first["failed"], second["ratio"], second["each"]) == ("ValueError: no kernel", 1.2346, [1.2346])
    assert read_figures(tmp_path, 1) == [second]
    assert is_bad(first)
    assert not is_bad(second)
    assert recap([first, second], {"parity": ["bf16"]}) == [
        "FAILED parity: float32: failed=ValueError: no kernel",
        "parity: bf16: ratio=1.2346 holds=True",
    ]


@pytest.fixture
def made_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Stage]:
    """Stages that measure nothing: one hangs with a child, one is good, one ends badly, one does not hold."""
    codes = {
        "hangs": "import subprocess; figures.note('child', pid=subprocess.Popen(['sleep', '60']).pid); where()",
        "good": "figures.note('told', value=1.0)",
        "ends": "import os; os._exit(3)",
        "wrong": "figures.note('told', holds=False)",
    }
    for name, code in codes.items():
        body = f"import time\ndef where():\n    time.sleep(60)\ndef measure(figures, size, work):\n    {code}\n"
        (tmp_path / f"stage_{name}.py").write_text(body)
    driver = "import importlib, sys; from pathlib import Path; from tests.benchmarks import on_gpu as o\n" + (
        "from tests.benchmarks.gpu_stages.plan import Stage; import faulthandler, signal\n"
        "faulthandler.register(signal.SIGUSR1, all_threads=True)\n"
        "name = sys.argv[sys.argv.index('--one') + 1]; out = Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "importlib.import_module('stage_' + name).measure(o.Figures(out, name), None, out)\n"
    )
    (tmp_path / "driver.py").write_text(driver)
    monkeypatch.setattr(on_gpu, "_MODULE", "driver")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return [Stage(name, "", 3.0 if name == "hangs" else 30.0, ("told",)) for name in codes]


def test_a_stage_that_hangs_or_ends_badly_leaves_the_others(
    tmp_path: Path, made_stages: list[Stage], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    code = on_gpu.run_stages(made_stages, out, tmp_path, 99.0, tiny=True)
    lines = read_figures(out)
    ends = {line["stage"]: line["ended"] for line in lines if line["what"] == "end"}
    assert code == 1
    assert ends == {"hangs": "cut", "good": "done", "ends": "exit code 3", "wrong": "done"}
    (child,) = (line["pid"] for line in lines if line["what"] == "child")
    time.sleep(0.2)
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
    log = (out / "log.txt").read_text()
    assert "in where" in log  # where the stage stood when it was cut
    printed = capsys.readouterr().out
    assert "good: told: value=1.0" in printed
    assert "FAILED wrong: told: holds=False" in printed
    assert "FAILED hangs: end: ended=cut" in printed


def test_stages_that_are_good_end_with_0(tmp_path: Path, made_stages: list[Stage]) -> None:
    assert on_gpu.run_stages(made_stages[1:2], tmp_path, tmp_path, 60.0, tiny=True) == 0


def test_a_stage_sees_no_store_of_the_user_and_asks_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:word@host")
    found = on_gpu._environment(os.environ, tmp_path)
    assert "MLFLOW_TRACKING_URI" not in found
    assert found["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("words", [["--budget", "0"], ["--budget", "nan"], ["--stages", "nonsense"], ["--budget", "x"]])
def test_a_command_that_cannot_be_carried_out_is_refused(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        on_gpu.main(["--out", str(tmp_path / "out"), *words])
    assert ended.value.code == 2
    assert not (tmp_path / "out").exists()


def test_tests_that_the_check_runs_exist() -> None:
    from tests.benchmarks.gpu_stages.suite import OF_PACKS

    assert all((on_gpu._ROOT / file).is_file() for file in OF_PACKS)


@pytest.mark.slow
def test_everything_small_on_a_cpu_writes_every_line_that_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--out", str(out), "--budget", "2400", "--tiny", "--stages", "first", "second"]
    code = on_gpu.main(words)
    lines = [json.loads(line) for line in (out / "figures.jsonl").read_text().splitlines()]
    assert [line for line in lines if is_bad(line)] == []
    assert code == 0, [line for line in lines if line["what"] == "end"]
    for stage in STAGES.values():
        told = {line["what"] for line in lines if line["stage"] == stage.name}
        assert {*stage.decides} <= told, (stage.name, {*stage.decides} - told)
    printed = capsys.readouterr().out
    assert all(f"{stage.name}: end: ended=done" in printed for stage in STAGES.values())
