"""How good a config a search with rungs finds in a tenth of a grid's training steps, on the embedded world.

    python -m tests.benchmarks.time_to_best [--repeats 10] [--folder DIR] [--output FILE]

The grid: 5 losses x 8 betas x 5 learning rates, all in the box where the world is informative, trained to their end on
two blocks of different tasks; its winner has the most gold at KL 4 or less, means over both. The search, each time with
other sampler and training seeds: the same losses, box and blocks, TPE, one rung, at less than a tenth of the grid's
steps. The winners, the grid's and that of its first block alone among them, are judged alike: trained again on fresh
blocks and a fresh seed, their gold in units U of what an oracle gains at KL 2 on the task. The folder keeps the sweeps,
so that a benchmark that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from scipy.stats import spearmanr

from dashboards.store.records import load_records
from studies.records import RunRecord, State
from studies.records.world_units import task_of_block
from studies.spec import Study, load_study
from sweeper.commands.run import run_session
from sweeper.folder.paths import places
from trainers.run_folder.results import read_result
from trainers.world.oracle import reference_gold, tilted_gold_at_kl

MAX_KL, REGION, STEPS = 4.0, 0.03, 120
LOSSES = ("sigmoid", "hinge", "nca_pair", "apo_zero", "ipo")
BETAS = (0.01, 0.019306977, 0.037275937, 0.071968567, 0.13894955, 0.26826958, 0.51794747, 1.0)  # ipo: ten times that
RATES = (0.0003, 0.00057326, 0.0010954451, 0.0020932801, 0.004)
TRIALS, AT, ETA = 15, [0.5], 3
SEARCHED = [0, 9]  # two tasks: on one alone what wins is what that task likes
JUDGED = {"blocks": [*range(1, 9), *range(10, 18)], "seeds": [100]}
MEASURED_AT = [0.083, 0.167, 0.25, 0.333, 0.417, 0.5, 0.667, 1.0]


class Config(NamedTuple):
    """A loss, its beta and the learning rate."""

    loss: str
    beta: float
    learning_rate: float


def study(name: str, **keys: Any) -> dict[str, Any]:
    """What all studies of the benchmark share."""
    return {
        "study": name,
        "base": {
            **{"model_name_or_path": "embedded", "use_peft": True, "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0},
            **{"lora_target_modules": "all-linear", "per_device_train_batch_size": 16, "max_steps": STEPS},
            **{"lr_scheduler_type": "cosine", "warmup_steps": 10, "learning_rate": 1e-3},
        },
        "data": {"path": "embedded", "rows": 2048},
        "evaluate": {"prompts": 512, "max_new_tokens": 32},
        "objective": {"metric": "gold", "constraints": {"kl": {"max": MAX_KL}}},
        "resources": {"workers": 2, "together": 8},
        "output": {"keep": "none"},
        **keys,
    }


def scaled(loss: str, values: Sequence[float]) -> list[float]:
    """Betas on the loss's own scale."""
    return [float(f"{value * (10 if loss == 'ipo' else 1):.8g}") for value in values]


def grid() -> dict[str, Any]:
    """The grid; measured on the way too, for the rank correlations."""
    variants = {loss: {"space": {"beta": {"values": scaled(loss, BETAS)}}} for loss in LOSSES}
    space = {"beta": {"values": [0.1]}, "learning_rate": {"values": list(RATES)}}
    plan = study("grid", sampler="grid", space=space, variants=variants, runs={"blocks": SEARCHED})
    return {**plan, "evaluate": {**plan["evaluate"], "at": MEASURED_AT}}


def search(repeat: int) -> dict[str, Any]:
    """One search over the same box."""
    ends = {loss: scaled(loss, (BETAS[0], BETAS[-1])) for loss in LOSSES}
    variants = {loss: {"space": {"beta": {"low": a, "high": b, "log": True}}} for loss, (a, b) in ends.items()}
    space = {"learning_rate": {"low": RATES[0], "high": RATES[-1], "log": True}}
    more = {
        "mode": "search",
        "sampler_seed": repeat,
        "runs": {"blocks": SEARCHED, "seeds": [repeat]},
        "budget": {"trials": TRIALS},
    }
    return study(f"search-{repeat}", space=space, variants=variants, rungs={"at": AT, "eta": ETA}, **more)


def judge(configs: Sequence[Config]) -> dict[str, Any]:
    """The winners again, on fresh blocks and a fresh seed."""
    variants = {
        loss: {"points": [{"beta": c.beta, "learning_rate": c.learning_rate} for c in configs if c.loss == loss]}
        for loss in LOSSES
        if any(c.loss == loss for c in configs)
    }
    return study("judge", variants=variants, runs=JUDGED)


def train(plan: Mapping[str, Any], folder: Path) -> list[RunRecord]:
    """Run a study, or what is missing of it, and give its records."""
    file = folder / f"{plan['study']}.yaml"
    text = yaml.safe_dump(dict(plan), sort_keys=False)
    file.write_text(text)
    spec = load_study(file)
    where = places(spec, folder, None)
    run_session(Study.of(spec), text, where, "process", None, lambda _progress: None, print, dict)
    return load_records(f"sqlite:///{folder / 'mlflow.db'}", spec.study)


def config_of(record: RunRecord) -> Config:
    """The config of a run."""
    return Config(record.variant, float(record.knobs["beta"]), float(record.knobs["learning_rate"]))


def steps_of(records: Sequence[RunRecord]) -> int:
    """Optimizer steps that the runs took."""
    return sum(int(record.facts["steps"]) for record in records)


def winner(records: Sequence[RunRecord]) -> Config:
    """The config with the most gold within the bound, of those whose runs trained to their end; means over runs."""
    of_trial: dict[tuple[str, int], list[RunRecord]] = {}
    for record in records:
        of_trial.setdefault((record.variant, record.trial), []).append(record)
    ended = [runs for runs in of_trial.values() if all(r.state is State.COMPLETE for r in runs)]
    kept = [runs for runs in ended if statistics.fmean(r.metrics["kl"] for r in runs) <= MAX_KL]
    return config_of(max(kept, key=lambda runs: statistics.fmean(r.metrics["gold"] for r in runs))[0])


def correlations(folder: Path, records: Sequence[RunRecord]) -> list[dict[str, float]]:
    """By step: rank correlation with the end, of all runs and of those within the bound at the end; and where the five
    that are best at the end stand among all, in the order of a rung.
    """
    runs = [read_result(folder / "runs" / "grid" / r.key) for r in records if r.block == SEARCHED[0]]
    series = [{(m.name, m.step): m.value for m in run.measurements} for run in runs if run]
    series = [one for one in series if ("gold", STEPS) in one]
    end, kl = (np.array([one[name, STEPS] for one in series]) for name in ("gold", "kl"))
    kept = kl <= MAX_KL
    best = np.argsort(-np.where(kept, end, -math.inf))[:5]
    found = []
    for step in sorted({step for name, step in series[0] if name == "gold"}):
        gold, drift = (np.array([one[name, step] for one in series]) for name in ("gold", "kl"))
        order = np.lexsort((-gold, np.maximum(drift - MAX_KL, 0.0)))
        place = np.argsort(order) + 1
        found.append(
            {
                "step": step,
                "all": float(spearmanr(gold, end)[0]),
                "within": float(spearmanr(gold[kept], end[kept])[0]),
                "worst_place_of_best": int(place[best].max()),
                "of": len(series),
            }
        )
    return found


def units(blocks: Sequence[int]) -> dict[int, tuple[float, float]]:
    """By block: the reference's gold, and the gold of one U."""
    tasks = {task: reference_gold(task) for task in sorted({task_of_block(block) for block in blocks})}
    of = {task: (float(gold.mean()), tilted_gold_at_kl(gold, (2.0,))[0]) for task, gold in tasks.items()}
    own = {block: of[task_of_block(block)] for block in blocks}
    return {block: (zero, best - zero) for block, (zero, best) in own.items()}


def judged(config: Config, records: Sequence[RunRecord], unit: Mapping[int, tuple[float, float]]) -> dict[str, Any]:
    """What the fresh blocks say of a config: U by block, its mean KL, runs that failed."""
    mine = sorted((r for r in records if config_of(r) == config), key=lambda r: r.block)
    good = [r for r in mine if r.state is State.COMPLETE]
    return {
        "u": {r.block: (r.metrics["gold"] - unit[r.block][0]) / unit[r.block][1] for r in good},
        "kl": statistics.fmean(r.metrics["kl"] for r in good) if good else math.nan,
        "failed": len(mine) - len(good),
    }


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[float, float]:
    """Mean difference in U over the blocks that both have, and its standard error."""
    pairs = [ours["u"][block] - theirs["u"][block] for block in ours["u"] if block in theirs["u"]]
    return statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs))


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    """All of it."""
    grid_records = train(grid(), folder)
    found = [train(search(repeat + 1), folder) for repeat in range(repeats)]
    first_block = [record for record in grid_records if record.block == SEARCHED[0]]
    winners = [winner(grid_records), winner(first_block), *(winner(records) for records in found)]
    records = train(judge(sorted(set(winners))), folder)
    unit = units(JUDGED["blocks"])
    results = [judged(config, records, unit) for config in winners]
    rows = []
    for config, result, searched in zip(winners[2:], results[2:], found, strict=True):
        difference, error = compare(result, results[0])
        rows.append(
            {
                "config": config._asdict(),
                "steps": steps_of(searched),
                "difference": difference,
                "error": error,
                **result,
            }
        )
    return {
        "grid": {"config": winners[0]._asdict(), "steps": steps_of(grid_records), **results[0]},
        "first_block": {"config": winners[1]._asdict(), "steps": steps_of(first_block), **results[1]},
        "correlations": correlations(folder, grid_records),
        "searches": rows,
    }


def report(found: Mapping[str, Any]) -> None:
    """Print the tables."""
    print("step  rank correlation of gold with the end: all runs, within the bound; where the 5 best stand")  # noqa: T201
    for c in found["correlations"]:
        print(  # noqa: T201
            f"{c['step']:4d}  {c['all']:6.2f} {c['within']:6.2f}   "
            f"among the first {c['worst_place_of_best']} of {c['of']}"
        )
    best = found["grid"]
    print(f"\ngrid: {best['steps']} steps, {shown(best)}")  # noqa: T201
    one = found["first_block"]
    print(f"its first block alone: {one['steps']} steps, {shown(one)}")  # noqa: T201
    for row in found["searches"]:
        print(  # noqa: T201
            f"search: {row['steps']} steps ({row['steps'] / best['steps']:.3f}), {shown(row)}, less the grid's "
            f"{row['difference']:+.3f} U +- {row['error']:.3f}"
        )
    differences = sorted(row["difference"] for row in found["searches"])
    inside = sum(row["difference"] >= -REGION and row_ok(row) for row in found["searches"])
    print(  # noqa: T201
        f"\nless the grid's winner, in U: median {statistics.median(differences):+.3f}, worst {differences[0]:+.3f}; "
        f"{inside} of {len(differences)} not below -{REGION} with KL within {MAX_KL:g}"
    )


def row_ok(row: Mapping[str, Any]) -> bool:
    """Whether the config kept the bound on the fresh blocks and none of its runs failed."""
    return bool(row["kl"] <= MAX_KL) and not row["failed"]


def shown(row: Mapping[str, Any]) -> str:
    """A config and what it was judged to be worth."""
    config = row["config"]
    mean = statistics.fmean(row["u"].values())
    failed = f", {row['failed']} runs failed" if row["failed"] else ""
    name = f"{config['loss']} beta {config['beta']:.3g} lr {config['learning_rate']:.2g}"
    return f"{name}: {mean:.3f} U at KL {row['kl']:.2f}{failed}"


def main() -> None:
    """Train what is missing, judge, print; keep the raw numbers where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="where the sweeps are kept  [default: a folder that is removed]")
    parser.add_argument("--output", type=Path, help="raw numbers as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(folder.absolute(), options.repeats)
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=1))
    report(found)


if __name__ == "__main__":
    main()
