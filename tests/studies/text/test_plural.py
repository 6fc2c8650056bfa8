"""What is counted is named as one or many."""

from __future__ import annotations

from studies.text.plural import so_many


def test_one_run_is_no_runs() -> None:
    assert [so_many(number, "finished run") for number in (0, 1, 2)] == [
        "0 finished runs",
        "1 finished run",
        "2 finished runs",
    ]
    assert [so_many(number, "run", "was", "were") for number in (1, 2)] == ["1 run was", "2 runs were"]
