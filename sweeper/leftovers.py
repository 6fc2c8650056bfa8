"""What is in the way in a study's folder: files that a killed process was writing, states that nobody goes on from.

Knows only names; whoever calls it holds the study's lock, so nobody else writes there.
"""

from __future__ import annotations

from pathlib import Path

from trainers.results import RESULT_FILE, STATE_FILE, drop_state


def remove_half_written(runs: Path) -> None:
    """Remove the temporary files of results and states whose writers were killed before they renamed them."""
    for name in (RESULT_FILE, STATE_FILE):
        for temporary in runs.glob(f"*/.{name}.*"):
            temporary.unlink(missing_ok=True)


def remove_states(runs: Path) -> None:
    """Remove the states and checkpoints of all runs: the study is complete, and those left are of runs that it does
    not ask for any more.
    """
    for run in runs.iterdir():
        if run.is_dir():
            drop_state(run)
