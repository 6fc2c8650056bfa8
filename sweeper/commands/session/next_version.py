"""A study file as the next version of a study that is swept: what a running sweep takes, and what it does not.

It takes more: variants, scenarios, trials and replicates, and another budget. Whatever finished runs answer stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from studies.design.identity import questions
from studies.schema.paths import existing
from studies.spec import Study, StudyError, StudySpec, foreign_code, load_study, not_yet
from sweeper.folder.steering.rounds import NextVersion, NotTaken
from sweeper.recorded.contents import study_sources

MAY_CHANGE: Final = frozenset(
    {"question", "claims", "variants", "scenarios", "replicates", "budget", "notices", "contents"}
)
INSTEAD: Final = "stop the sweep, and run the file again"


def version_with(settings: Sequence[str], study: str | None = None) -> NextVersion:
    """What makes the next version of a file. `settings`: with which the sweep was started, as `--set` gives them;
    `study`: as what it was started. Paths in the file begin there, and no other file is read for whoever asks.
    """

    def of(now: Study, file: Path) -> Study:
        if not file.is_file():
            raise NotTaken(f"{file}: there is no such file.")
        own = file if study is None else existing(study)
        if own is None or not own.is_file() or not own.samefile(file):
            raise NotTaken(f"This sweep was started with {study}, and takes no other file: {INSTEAD}.")
        try:
            found = Study.of(load_study(own, settings))
        except (StudyError, OSError) as error:
            raise NotTaken(str(error).strip()) from None
        problem = why_not(now, found)
        if problem is not None:
            raise NotTaken(problem)
        return found.holding(now.spec.contents)

    return of


def why_not(now: Study, then: Study) -> str | None:
    """Why a sweep of the study does not go on as another version of it says, and what to do; None where it does."""
    other = [name for name in StudySpec.model_fields if getattr(now.spec, name) != getattr(then.spec, name)]
    fixed = ["evaluate" if name == "evaluation" else name for name in other if name not in MAY_CHANGE]
    if fixed:
        return f"A running sweep takes no other {' and '.join(fixed)}: {INSTEAD}."
    for key, has, asks in (
        ("budget.trials", now.spec.budget.trials, then.spec.budget.trials),
        ("replicates", now.spec.replicates or 0, then.spec.replicates or 0),
    ):
        if asks < has:
            return f"The sweep trains {key}: {has} by now, and the file says {asks}: say {has} there, or {INSTEAD}."
    if not {"variants", "scenarios", "replicates", "budget"} & set(other):
        return "The file asks for nothing that the sweep does not train already. (What was set with --set stays.)"
    if not_yet(then.spec):
        return " ".join(not_yet(then.spec))
    if foreign_code(now.spec) != foreign_code(then.spec) or set(study_sources(then)) - set(study_sources(now)):
        return f"It names data, a model or code that this sweep has not looked at: {INSTEAD}."
    asked = questions(then.holding(now.spec.contents))
    lost = sorted({name for (name, where), question in questions(now).items() if asked.get((name, where)) != question})
    if lost:
        return f"It takes away or changes what is asked of {', '.join(lost)}, and a sweep only takes more: {INSTEAD}."
    return None
