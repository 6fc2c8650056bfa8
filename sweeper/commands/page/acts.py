"""The acts of the live page: requests to the sweep that runs, files in the run folder, and commands."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from dashboards.live.ports import Act, Done, Edit, Hands, Run, Version
from studies.requests import Extend, Pause, Request, Resume, Retry, Stop, Take
from studies.text.redact import redact
from sweeper.commands.kept.listing import run_folders
from sweeper.commands.page.versions import NO_FILE, clone, more, write
from sweeper.folder.control import NotHere, pause_problem, paused, set_paused
from sweeper.folder.standing import ask, standing

START_SECONDS: Final = 300.0  # for a sweep to begin
NOT_RUNNING: Final = "No sweep of this study runs now."

FileOf = Callable[[str], str | None]


def hands(
    here: Path, file_of: FileOf, why_none: Callable[[str], str], variants_of: Callable[[str], tuple[str, ...]]
) -> Hands:
    """The acts in a folder. `file_of`: what a terminal calls a study; `why_none`: why it has no name for it;
    `variants_of`: its variants.
    """

    def cloned(study: str, variant: str, name: str, settings: Mapping[str, str]) -> Version:
        file = file_of(study)
        if file is None:
            return Version("", "", Edit("", ""), (), (why_none(study),))
        return clone(here, file, variant, name, settings)

    def raised(study: str, key: str, value: str) -> Version:
        file = file_of(study)
        if file is None:
            return Version("", "", Edit("", ""), (), (why_none(study),))
        return more(here, file, key, value)

    def do(study: str, act: Act) -> Done:
        if isinstance(act, Run | Edit) and file_of(study) is None:
            return Done("refused", why_none(study))
        return _do(here, file_of, variants_of, study, act)

    return Hands(do=do, command=partial(command, file_of), clone=cloned, more=raised)


def command(file_of: FileOf, study: str, act: Act) -> str:
    """The line that does the same in a terminal."""
    name = file_of(study) or "STUDY"
    match act:
        case Stop(now):
            words = ["stop", name, *(["--now"] if now else [])]
        case Pause(variant):
            words = ["pause", name, variant]
        case Resume(variant):
            words = ["resume", name, variant]
        case Retry(causes):
            words = ["retry", name, *(word for cause in causes for word in ("--cause", cause))]
        case Extend(trials, replicates):
            given = {"budget.trials": trials, "replicates": replicates}
            words = ["run", name, *(w for k, v in given.items() if v is not None for w in ("--set", f"{k}={v}"))]
        case Take(file):
            words = ["take", file]
        case Run():
            words = ["run", name, "--detach"]
        case Edit():
            return f"edit {shlex.quote(name)}, then {shlex.join(['sweeper', 'take', name])}"
    return shlex.join(["sweeper", *words])


def _do(here: Path, file_of: FileOf, variants_of: Callable[[str], tuple[str, ...]], study: str, act: Act) -> Done:
    """Carry out an act; what goes wrong is said, and nothing is raised."""
    try:
        if isinstance(act, Run):
            return _start(here, file_of(study))
        runs = dict(run_folders(here)).get(study)
        if isinstance(act, Edit):
            return _edited(here, file_of(study) or "", runs, act)
        if runs is None:
            return Done("refused", "The run folder of this study is not here.")
        if isinstance(act, Pause | Resume):
            hold, held = isinstance(act, Pause), paused(runs)
            problem = pause_problem(act.variant, hold, variants_of(study), held)
            if problem is not None:
                return Done("refused", problem)
        found = standing(runs)
        if found is not None and found.state == "running":
            answer = ask(runs, _placed(here, act), found.sweep)
            outcome = answer.outcome
            return Done("done" if outcome == "done" else "refused", str(redact(answer.message)), answer.id)
        if isinstance(act, Pause | Resume):
            set_paused(runs, held | {act.variant} if hold else held - {act.variant})
            return Done("done", f"{act.variant} {'is paused' if hold else 'goes on'} in later sweeps.")
        return Done("refused", f"{NOT_RUNNING} In a terminal: {command(file_of, study, act)}")
    except NotHere as error:
        return Done("too_late", str(error))
    except OSError as error:
        return Done("refused", str(redact(f"{error.filename or here}: {error.strerror}.")))


def _edited(here: Path, file: str, runs: Path | None, edit: Edit) -> Done:
    """Write the next version of a study file, and ask the sweep that runs to take it."""
    found = None if runs is None else standing(runs)
    written = write(here, file, edit)
    if written.outcome != "done" or runs is None or found is None or found.state != "running":
        again = "" if written.outcome != "done" else f" `sweeper run {shlex.quote(file)}` trains what is new."
        return replace(written, message=written.message + again)
    try:
        answer = ask(runs, _placed(here, Take(file)), found.sweep)
    except (NotHere, OSError) as error:
        return replace(written, message=f"{written.message} The sweep was not asked to take it: {error}")
    said = "Takes it" if answer.outcome == "done" else "The sweep that runs does not take it"
    return Done("done", f"{written.message} {said}: {redact(answer.message)}", answer.id)


def _placed(here: Path, act: Request) -> Request:
    """The request with the whole path of the file that it names."""
    return Take(str((here / act.file).resolve())) if isinstance(act, Take) else act


def _start(here: Path, file: str | None) -> Done:
    """Start a sweep in a process of its own; it is asked nothing, and refused as in a terminal without one."""
    if file is None:
        return Done("refused", NO_FILE)
    words = [sys.executable, "-P", "-m", "sweeper", "run", file, "--detach"]
    try:
        ended = subprocess.run(
            words, cwd=here, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Done("too_late", f"It has not begun for {START_SECONDS:.0f} s: look at `sweeper status {file}`.")
    said = [line for line in (ended.stdout if ended.returncode == 0 else ended.stderr).splitlines() if line.strip()]
    first = str(redact(said[0])) if said else f"it ended with {ended.returncode}"
    return Done("done" if ended.returncode == 0 else "refused", first)
