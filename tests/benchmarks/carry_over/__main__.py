"""How the predictions of what carries over came out.

    python -m tests.benchmarks.carry_over                # from the records in studies/results/carry-over
    python -m tests.benchmarks.carry_over --collect      # first make those anew from the working folder's store

`--collect` keeps whole draws alone, of each study that the store has (`sweeper run` of the files here), with the curves
of margin and chosen side, which a store keeps as histories.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dashboards.store.connection import StoreMissing, store_uri
from dashboards.store.histories import load_curves, load_speed
from dashboards.store.records import load_records
from dashboards.store.records_file import Recorded, read_records, records_bytes
from studies.records import RunRecord, State
from tests.benchmarks.carry_over.predictions import Outcome, falls, forgives, inverts, lowers, ranks, speed, ties

RESULTS = Path(__file__).resolve().parents[3] / "studies" / "results" / "carry-over"
WHOLE = {"signs": 4, "tuned": 36, "long": 3, "toy": 24}
"""Study -> runs of a draw, or of a replicate."""
HISTORIES = ("margin", "chosen_shift")
FACTS = ("reference_gold", "train_rows", "eval_rows", "prompts", "device", "torch", "transformers", "steps")

WORDS = {
    "P1": ("a step takes as long with every loss, within 1 %", "follows from the formula"),
    "P2": ("discopop with tau 0.05 ends inverted", "follows from the formula"),
    "P3": ("apo_down lowers the chosen answers by 5 nats more, at the same margin", "follows from the formula"),
    "P4": ("tuned, hinge and bco_pair gain as sigmoid, within a third", ""),
    "P5": ("bco_pair and sppo_hard forgive twice as much as sigmoid", ""),
    "P6": ("trained on and on, sigmoid falls more than ipo and hinge", ""),
    "P7": ("settings rank alike at both scales", ""),
}
"""Prediction -> in short, and whether it follows from the formula."""


def collect(results: Path) -> None:
    """Write the records of whole draws, study by study. Raises StoreError where the store cannot be read."""
    uri = store_uri(None, Path.cwd())
    for name, runs in WHOLE.items():
        study = f"carry-over-{name}"
        try:
            found = whole_draws(load_records(uri, study), runs)
        except StoreMissing as missing:
            sys.stderr.write(f"{missing}\n")
            continue
        curves = load_curves(uri, [run.run_id for run in found], HISTORIES) if name == "signs" else {}
        records = tuple(_compact(run, curves.get(run.run_id, {})) for run in found)
        whole = records_bytes(
            Recorded(study, records, (), load_speed(uri, study, Path.cwd())), keep=frozenset(HISTORIES)
        )
        (results / f"{name}.jsonl.gz").write_bytes(whole)
        sys.stderr.write(f"{name}: {len(records)} runs, {len(whole) / 1024:.0f} KiB\n")


def whole_draws(records: Iterable[RunRecord], runs: int) -> list[RunRecord]:
    """The runs that came to an end, of draws or replicates of which so many did."""
    draws: dict[str, list[RunRecord]] = defaultdict(list)
    for run in records:
        if run.state in (State.COMPLETE, State.PRUNED):
            draws[run.scenario if "#" in run.scenario else str(run.block)].append(run)
    return [run for of in draws.values() if len(of) == runs for run in of]


def _compact(run: RunRecord, curves: Mapping[str, Sequence[tuple[int, float]]]) -> RunRecord:
    """Without what is of the machine alone; with the histories that were asked for."""
    source = "embedded" if run.facts.get("source") == "embedded" else "stories_sentiment"
    facts = {name: run.facts[name] for name in FACTS if name in run.facts} | {"source": source}
    more = {name: tuple(points) for name, points in curves.items()}
    return run.model_copy(update={"facts": facts, "curves": {**run.curves, **more}})


def outcomes(results: Path) -> list[Outcome]:
    """All predictions in order, from the records that there are."""
    found = {name: read_records(file) for name in WHOLE if (file := results / f"{name}.jsonl.gz").is_file()}
    records = {name: found[name].records if name in found else () for name in WHOLE}
    timed = [one for name in ("signs", "tuned", "long") if name in found for one in found[name].speed]
    return [
        speed(timed),
        inverts(records["signs"]),
        lowers(records["signs"]),
        ties(records["tuned"]),
        forgives(records["tuned"]),
        falls(records["long"]),
        ranks(records["tuned"], records["toy"]),
    ]


def table(found: Iterable[Outcome]) -> str:
    """The outcomes as a table in Markdown."""
    rows = [
        f"| {one.name} | {WORDS[one.name][0]} | **{one.word}** | {one.found} | {one.n} | {kind(one)} |" for one in found
    ]
    return "\n".join(["| | prediction | outcome | found | n | so it is |", "|---|---|---|---|---|---|", *rows]) + "\n"


def kind(outcome: Outcome) -> str:
    """What may be said of the finding that the prediction came from."""
    formula = WORDS[outcome.name][1]
    if outcome.word == "held":
        return f"{formula}, seen at 2 scales" if formula else "seen at 2 scales"
    return "toy only" if not formula or outcome.word == "failed" else formula


def main() -> None:
    """Print the table, with fresh records where asked."""
    parser = argparse.ArgumentParser(description="How the predictions of what carries over came out.")
    parser.add_argument("--collect", action="store_true", help="make the records anew from the store here first")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    asked = parser.parse_args()
    if asked.collect:
        collect(asked.results)
    sys.stdout.write(table(outcomes(asked.results)))


if __name__ == "__main__":
    main()
