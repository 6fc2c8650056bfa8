"""The terminal, JSON and Python give the same numbers, on studies that were recorded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sweeper as api
from dashboards.tables.numbers import number, to_error
from tests.sweeper.conftest import Sweeper

ROOT = Path(__file__).parents[3]
RECORDED = ("guide-binary", "guide-noise")  # of one condition, and of several


def same(value: Any, other: Any) -> bool:
    return bool(pd.isna(value)) if other is None else bool(value == other)


@pytest.mark.parametrize("name", RECORDED)
def test_terminal_json_and_python_give_the_same_numbers(name: str, sweeper: Sweeper, tmp_path: Path) -> None:
    file = str(ROOT / "studies" / "results" / name / "records.jsonl.gz")
    study = api.load(name, records=file)
    frame = study.table()
    found = json.loads(sweeper(tmp_path, "table", name, "--records", file, "--format", "json").stdout)
    text = sweeper(tmp_path, "table", name, "--records", file).stdout
    assert list(frame.condition.unique()) == [one["condition"] for one in found["tuned"]] == list(study.conditions)
    parts = re.split("|".join(rf"^{condition}$" for condition in study.conditions), text, flags=re.MULTILINE)
    for tuned, said, part in zip(found["tuned"], found["answers"], parts[-len(study.conditions) :], strict=True):
        rows = frame[frame.condition == tuned["condition"]].set_index("variant")
        assert set(rows.index) == {loss["variant"] for loss in tuned["losses"]}
        for loss in tuned["losses"]:
            row = rows.loc[loss["variant"]]
            gain = loss["exported"] or loss["gain"]
            for column in ("drift", "length", "tried", "judged", "step"):
                assert same(row[column], loss[column]), (loss["variant"], column)
            for column, key in (("gain", "value"), ("gain_low", "low"), ("gain_high", "high")):
                assert same(row[column], gain and gain[key]), (loss["variant"], column)
            for column, key in (("difference", "value"), ("difference_low", "low"), ("difference_high", "high")):
                assert same(row[column], loss["difference"] and loss["difference"]["estimate"][key])
            assert {knob: row[knob] for knob in loss["settings"]} == loss["settings"]
            (line,) = [line for line in part.splitlines() if line.split()[:1] == [loss["variant"]]][:1]
            assert f" {printed(row)} " in line or gain is None, line
        answer = study.answer(tuned["condition"])
        assert (answer.use, answer.step, dict(answer.avoid)) == (said["use"], said["step"], said["avoid"])
        assert str(answer) == " ".join(said["sentences"])
        assert " ".join(str(answer).split()) in " ".join(text.split())


def printed(row: pd.Series[Any]) -> str:
    """A gain as the short table shows it: a share of what is possible in percent."""
    gain, low, high = row.gain, row.gain_low, row.gain_high
    if row.unit == "U":
        return f"{100 * gain:.0f}%" if pd.isna(low) else f"{100 * gain:.0f}% [{100 * low:.0f}, {100 * high:.0f}]"
    return (
        number(gain)
        if pd.isna(low)
        else " ".join(
            (
                to_error(gain, (high - low) / 2),
                f"[{to_error(low, (high - low) / 2)}, {to_error(high, (high - low) / 2)}]",
            )
        )
    )
