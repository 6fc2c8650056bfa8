"""What a shell or a scheduler does to the command: closed and full streams, a working folder that is gone or cannot be
named. A sentence, and no traceback.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = f"{sys.executable} -m sweeper"


def shell(folder: Path | bytes, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_as_nothing(tmp_path: Path, closed: str) -> None:
    """The first file that is opened would take the place of standard output."""
    ended = shell(tmp_path, f"{COMMAND} table quickstart {closed}")
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_printed_is_told(tmp_path: Path) -> None:
    ended = shell(tmp_path, f"{COMMAND} plan quickstart > /dev/full")
    assert (ended.returncode, ended.stderr.splitlines()) == (
        1,
        ["error: what was to be printed could not be written: No space left on device."],
    )


def test_a_working_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    ended = shell(gone, f"rmdir ../gone; {COMMAND} plan quickstart")
    assert (ended.returncode, ended.stderr) == (
        2,
        "error: The working folder cannot be found (No such file or directory): go into one that is there.\n",
    )


def test_a_working_folder_that_no_address_of_a_database_can_name_is_refused(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(odd)
    ended = shell(odd, f"{COMMAND} run quickstart")
    assert ended.returncode == 2
    assert "error: The path of the working folder is no UTF-8 text" in ended.stderr
    assert os.listdir(odd) == []
