"""All claims of the guide in one table, from the records that the studies which test them left behind.

    python -m dashboards.report.guide [--format markdown] [--results studies/results]

reads RESULTS/STUDY/records.jsonl.gz of every shipped study that names claims, as `sweeper records` wrote it, and opens
no store. A study without such a file has no verdict, which is said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from dashboards.guide.verdicts import Verdict, untested
from dashboards.report.study import comparison_in
from dashboards.store.connection import StoreError
from dashboards.store.records_file import Recorded, read_records
from dashboards.tables.formats import Format, render_claims
from studies.losses.guide import BY_ID, CLAIMS
from studies.spec import Study, load_study, shipped_studies

RECORDS = "records.jsonl.gz"


def guide_verdicts(results: Path) -> tuple[Verdict, ...]:
    """A verdict on every claim, in the guide's order. Raises StoreError for a file that cannot be read."""
    found = {verdict.claim.id: verdict for verdict in untested()}
    for name, path in shipped_studies().items():
        study = Study.of(load_study(path))
        file = results / name / RECORDS
        if study.spec.claims and file.is_file():
            found |= _verdicts(study, read_records(file))
        for claim in study.spec.claims:
            missing = f"not measured yet: sweeper run {name}"
            found.setdefault(claim, Verdict(BY_ID[claim], "inconclusive", missing))
    return tuple(found[claim.id] for claim in CLAIMS if claim.id in found)


def _verdicts(study: Study, recorded: Recorded) -> Mapping[str, Verdict]:
    return {verdict.claim.id: verdict for verdict in comparison_in(study, recorded).verdicts}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Every claim of the guide with its verdict.")
    parser.add_argument("--format", choices=("text", "markdown"), default="text")
    parser.add_argument("--results", type=Path, default=Path("studies/results"))
    asked = parser.parse_args()
    kind: Format = asked.format
    try:
        sys.stdout.write(render_claims(guide_verdicts(asked.results), kind))
    except StoreError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
