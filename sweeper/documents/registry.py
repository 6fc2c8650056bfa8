"""Every kind of JSON object that a command answers with, by its name and version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dashboards.tables.comparison import Comparison
from dashboards.tables.grids import Grids
from studies.text.mistakes import Problems
from sweeper.commands.detached.start import Began
from sweeper.commands.doctor import DoctorDocument
from sweeper.commands.exported import Exported
from sweeper.commands.kept.found import FoundRuns
from sweeper.commands.kept.listing import KeptStudies
from sweeper.commands.kept.removal import Removal
from sweeper.commands.sharing.notify import Notice
from sweeper.documents.plan import PlanDocument
from sweeper.documents.run import RunDocument
from sweeper.documents.status import StatusDocument

_TYPES: Final = (
    PlanDocument,
    RunDocument,
    Began,
    StatusDocument,
    Comparison,
    Grids,
    Exported,
    DoctorDocument,
    KeptStudies,
    Removal,
    FoundRuns,
    Notice,
    Problems,
)
DOCUMENTS: Final[Mapping[str, type[Any]]] = {one.schema: one for one in _TYPES}
"""Schema -> the frozen type whose fields its object has. A line of a sweep's events is `event/1`, with the fields of
`sweeper.folder.events`."""
