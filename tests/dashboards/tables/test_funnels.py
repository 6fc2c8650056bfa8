"""Facts about the sentences on what became of the rows that runs read."""

from __future__ import annotations

from typing import Any

from dashboards.tables.funnels import funnel_notes
from tests.dashboards.generated import a_record

WAY = {
    "rows_read": "760",
    "rows_looked_at": "758",
    "length_limits": "max_length 256",
    "train_too_long": "305",
    "train_rows": "261",
    "eval_rows": "96",
    "prompt_held_out": "2",
    "prompts": "31",
}


def told(*runs: dict[str, Any]) -> tuple[str, ...]:
    return funnel_notes([a_record(**changes) for changes in runs])


def test_the_first_block_tells_for_all() -> None:
    [way] = told({"facts": WAY}, {"facts": {**WAY, "train_rows": "7"}, "block": 1})
    assert way == (
        "Pairs of data draw 0: 760 read, 359 fit max_length 256, 2 of held-out prompts, 261 train, 96 held out, "
        "31 prompts."
    )


def test_scenarios_are_told_apart_where_their_rows_went_otherwise() -> None:
    small = {"facts": {**WAY, "rows_looked_at": "120", "train_rows": "16"}, "scenario": "small"}
    ways = told({"facts": WAY}, small, {"facts": WAY, "scenario": "flipped"})
    assert [way.partition(":")[0] for way in ways] == [
        "Pairs of data draw 0 in clean, flipped",
        "Pairs of data draw 0 in small",
    ]
    assert "760 read, 120 looked at, 112 fit max_length 256" in ways[1]


def test_bad_rows_and_what_is_odd_are_told() -> None:
    bad = {"rows_read": "770", "rows_dropped": "10", "rows_dropped_by": "9 empty, 1 null"}
    way, note = told({"facts": {**WAY, **bad, "rows_notes": "data p: odd"}})
    assert "770 read, 10 bad and left out (9 empty, 1 null), 359 fit" in way
    assert note == "Data p: odd."


def test_runs_that_do_not_tell_are_passed_over() -> None:
    assert told({}) == ()
