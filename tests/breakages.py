"""Ten ways to break what this project promises, and the tests that must notice: `python -m tests.breakages`.

Each is one small edit at one place of the four rooms, found by its text and not by its file. The tree is copied, the
edit made in the copy, and the named tests are run there, after all of them have passed without it. Exits with 1 where
an edit goes unnoticed, or its text is not found exactly once: write it anew then, as near to the old meaning as can be.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
ROOMS = ("studies", "trainers", "dashboards", "sweeper")
FAILED = 1  # pytest's exit code where tests ran and some failed


class Breakage(NamedTuple):
    """Text of the source that stands there once, what it becomes, and the tests that fail then.

    A test is named by its function, with the words of one case behind it where that is enough.
    """

    name: str
    text: str
    becomes: str
    tests: Sequence[str]


BREAKAGES = (
    Breakage(
        "identity: two seeds are one run",
        'include={"trainer", "settings", "block", "seed"}',
        'include={"trainer", "settings", "block"}',
        ["test_a_pinned_fact_is_what_it_was keys"],
    ),
    Breakage(
        "resume: a run goes on with a new optimizer's step count",
        "self._steps[slot] = steps",
        "self._steps[slot] = 0",
        ["test_a_killed_run_goes_on_from_its_last_state_with_the_numbers_of_an_uninterrupted_one"],
    ),
    Breakage(
        "cause table: divergence is the machine's fault",
        "Cause.NON_FINITE: Consequence(State.PRUNED",
        "Cause.NON_FINITE: Consequence(State.FAIL",
        [
            "test_what_could_not_be_trained_is_what_optuna_is_told_as_failed",
            "test_a_diverged_run_is_a_result_that_counts_as_a_failure",
        ],
    ),
    Breakage(
        "parity: AdamW corrects its first moment as in step 1 for ever",
        "rate / (1 - beta1**t)",
        "rate / (1 - beta1)",
        ["test_in_float64_a_mixed_pack_gives_the_adapters_of_plain_dpo_trainers"],
    ),
    Breakage(
        "split of a pack: each part counts as a whole micro-batch",
        "share = len(part) / len(rows)",
        "share = 1.0",
        ["test_checkpointing_and_parts_of_micro_batches_change_no_number"],
    ),
    Breakage(
        "verdict: no correction for the number of comparisons",
        "elif p_holm is not None and p_holm < ALPHA",
        "elif p is not None and p < ALPHA",
        ["test_a_difference_that_is_sure_by_itself_is_none_among_many"],
    ),
    Breakage(
        "export: what was turned off for a run is on",
        "settings[PRECOMPUTE] = decode(record.facts[PRECOMPUTE])",
        "pass",
        ["test_what_was_turned_off_for_a_run_is_off_in_its_export"],
    ),
    Breakage(
        "redaction: tokens of Hugging Face are shown",
        "(?:hf_|api_org_)(?P<hugging>",
        "(?:hf__|api_org_)(?P<hugging>",
        ["test_known_forms_of_secrets_are_taken_out_wherever_they_stand"],
    ),
    Breakage(
        "lock: two sweeps of one study at a time",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_UN",
        ["test_a_second_run_of_the_same_study_is_refused_and_names_the_first"],
    ),
    Breakage(
        "budgets: what earlier sweeps spent is forgotten",
        "self._before + spent + committed + device >",
        "spent + committed + device >",
        ["test_device_hours_go_on_from_what_earlier_sweeps_spent"],
    ),
)


def main() -> int:
    """Try each breakage and print what became of it; 0 where all were caught."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        _copy(tree)
        began = time.monotonic()
        every = list(dict.fromkeys(test for breakage in BREAKAGES for test in breakage.tests))
        code, output = _run(tree, every)
        sys.stdout.write(f"{'unbroken':70} {'passes' if code == 0 else 'FAILS':12} {time.monotonic() - began:5.1f} s\n")
        if code != 0:
            sys.stdout.write(output)
            return 1
        caught = [_is_caught(tree, breakage) for breakage in BREAKAGES]
        return int(not all(caught))


def _is_caught(tree: Path, breakage: Breakage) -> bool:
    began = time.monotonic()
    places = [file for room in ROOMS for file in (tree / room).rglob("*.py") for _ in _found(file, breakage.text)]
    if len(places) != 1:
        word, by = f"found {len(places)} times", ""
    else:
        whole = places[0].read_text(encoding="utf-8")
        places[0].write_text(whole.replace(breakage.text, breakage.becomes), encoding="utf-8")
        code, output = _run(tree, breakage.tests)
        places[0].write_text(whole, encoding="utf-8")
        word = "caught" if code == FAILED else f"NOT CAUGHT ({code})"
        by = ", ".join(sorted({line.split("::")[1].split("[")[0] for line in output.splitlines() if _failed(line)}))
    sys.stdout.write(f"{breakage.name:70} {word:12} {time.monotonic() - began:5.1f} s  {by}\n")
    sys.stdout.flush()
    return word == "caught"


def _found(file: Path, text: str) -> list[str]:
    return re.findall(re.escape(text), file.read_text(encoding="utf-8"))


def _failed(line: str) -> bool:
    return line.startswith("FAILED ") and "::" in line


def _copy(tree: Path) -> None:
    """What git knows or would add, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)


def _run(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run tests of the copy on the copy, which stands before any installed version. Gives exit code and output."""
    chosen = [node for test in tests for node in _nodes(tree, *test.split())]
    python = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", "-W", "ignore"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run([*python, *chosen], cwd=tree, env=environment, capture_output=True, text=True)
    return ended.returncode, ended.stdout + ended.stderr


def _nodes(tree: Path, function: str, case: str = "") -> list[str]:
    """The test of this name in whatever file it is. Raises SystemExit where there is none."""
    files = [file for file in (tree / "tests").rglob("test_*.py") if _found(file, f"def {function}(")]
    if not files:
        sys.exit(f"There is no test {function} any more: name the one that took its place in tests/breakages.py.")
    return [f"{file.relative_to(tree)}::{function}" + (f"[{case}]" if case else "") for file in files]


if __name__ == "__main__":
    sys.exit(main())
