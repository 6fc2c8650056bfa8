"""The door that workers on other machines come in by."""

from __future__ import annotations

from pathlib import Path

from sweeper.executors.elsewhere.team import Gate, open_gate


def port_of(gate: Gate) -> str:
    return gate.addresses.rpartition(":")[2]


def test_the_next_door_of_a_study_has_the_port_that_hosts_dial(tmp_path: Path) -> None:
    """As between measuring and training, or where a sweep is killed and run again."""
    first = open_gate("formula", tmp_path, None)
    beside = open_gate("formula", tmp_path, None)  # of a study that was copied, while the other runs
    assert port_of(beside) != port_of(first)
    beside.door.close()
    first.door.close()
    again = open_gate("formula", tmp_path, None)
    again.door.close()
    assert port_of(again) == port_of(beside)
    (tmp_path / "door.port").write_text("no port")
    open_gate("formula", tmp_path, None).door.close()
