"""Exports the best settings of a study."""

from __future__ import annotations

from pathlib import Path

import typer

from dashboards.report.study import comparison_of
from studies.spec import Study
from sweeper.api.refusals import refuse
from sweeper.cli.inputs import warn_of_code
from sweeper.cli.shared import tell_whose
from sweeper.commands.export import ExportError, export_best
from sweeper.recorded.contents import as_found
from sweeper.recorded.reading import answers_of


def export_to(path: Path, study: Study, variant: str | None, trial: int | None) -> Path:
    """Write the config of the best trial, or of another one, and give its path."""
    warn_of_code(study.spec)
    tell_whose(study.spec)
    answers = answers_of(study)
    found = as_found(study, typer.echo, reach=False)
    try:
        export_best(found, answers.records, comparison_of(study, answers), variant, trial, path)
    except ExportError as error:
        refuse(" ".join([str(error), *answers.notes()]))
    except OSError as error:
        refuse(f"{error.filename or path}: {error.strerror}.")
    return path
