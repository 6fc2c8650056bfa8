"""What sharing saves at equal work: the same runs by stock TRL and by packs, `python -m tests.benchmarks.ladder`.

Every rung trains the same configs on the same batches and measures each adapter with the same evaluator:

    a  one `trl dpo` process a run, as a shell script would; the adapters are measured in one warm process
    b  a loop over stock DPOTrainer in one warm process, as a newcomer writes it
    c  the same with TRL's precomputed reference and the number of threads that is faster
    c2 two such loops side by side, a thread each
    d  our worker processes, each run in a pack of its own
    e  our worker processes, packs that grow while that pays

Rungs are repeated in turn, each in fresh processes, so that a slow minute of the machine meets all of them. Not timed:
imports, loading the base model and making the pairs, except in a, where every process pays them; they cannot be saved
there. What arithmetic alone allows is printed by itself: b passes over the padded rows of a batch three times a step
(policy, reference, and back, where a frozen weight has no gradient), e twice over tokens without padding, the shared
beginning of a pair once, and once for all runs over the padded rows of the reference.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.records import DataConfig, EvaluationConfig, RunConfig, RunResult
from sweeper.executors import Finished, Lost, Process
from sweeper.executors.process.devices import usable_cores, visible_gpus
from trainers.interface import Job, Placement

SHARED = Path(__file__).parents[3] / "shared"
LOSSES: Sequence[dict[str, Any]] = (
    {"loss_type": ["sigmoid"]},
    {"loss_type": ["ipo"], "beta": 1.0},
    {"loss_type": ["hinge"]},
    {"loss_type": ["robust"], "label_smoothing": 0.1},
    {"loss_type": ["bco_pair"]},
    {"loss_type": ["apo_zero"]},
    {"loss_type": ["nca_pair"]},
    {"loss_type": ["sigmoid", "ipo"], "loss_weights": [0.7, 0.3], "beta": 1.0},
)
LORA: dict[str, Any] = {
    "use_peft": True,
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "lora_target_modules": "all-linear",
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "beta": 0.1,
}
WORLDS: dict[str, dict[str, Any]] = {
    "embedded": {
        "settings": {"model_name_or_path": "embedded", "per_device_train_batch_size": 16, "learning_rate": 1e-3},
        "data": {"path": "embedded", "rows": 2048},
        "evaluation": {"prompts": 512, "max_new_tokens": 32},
    },
    "stories": {
        "settings": {
            "model_name_or_path": str(SHARED / "models" / "stories260k"),
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
        },
        "data": {"path": str(SHARED / "data" / "stories_sentiment.jsonl"), "eval_rows": 128, "max_length": 128},
        "evaluation": {"prompts": 128, "max_new_tokens": 48},
    },
    "smollm2": {
        "settings": {"model_name_or_path": "", "per_device_train_batch_size": 4, "learning_rate": 1e-4},
        "data": {"path": str(SHARED / "data" / "polite_instruct.jsonl"), "eval_rows": 32, "max_length": 64},
        "evaluation": {"prompts": 16, "max_new_tokens": 24, "pairs": 32},
    },
}


def runs(about: Mapping[str, Any], count: int, steps: int) -> list[RunConfig]:
    """The configs that every rung trains in a world: losses in turn, each with another beta the second time."""
    found = []
    for i in range(count):
        loss = LOSSES[i % len(LOSSES)]
        beta = loss.get("beta", LORA["beta"]) * (1 + i // len(LOSSES))
        settings = {**LORA, **about["settings"], **loss, "beta": beta, "max_steps": steps, "seed": 0}
        found.append(
            RunConfig(
                study="ladder",
                variant=f"run{i}",
                scenario="clean",
                trial=i,
                block=0,
                seed=0,
                settings=settings,
                knobs={},
                data=DataConfig(**about["data"]),
                evaluation=EvaluationConfig(**about["evaluation"]),
            )
        )
    return found


def by_commands(configs: Sequence[RunConfig], folder: Path) -> float:
    """Rung a. Seconds."""
    import yaml
    from transformers import AutoTokenizer

    from trainers.components.settings import hardware_settings, resolve_model
    from trainers.data.pairs import load_pairs
    from trainers.data.tables import write_pairs
    from trainers.dpo import load_adapter

    base = resolve_model(str(configs[0].settings["model_name_or_path"]))
    pairs = load_pairs(configs[0].data, 0, AutoTokenizer.from_pretrained(base))
    write_pairs(pairs, folder / "data")
    measure = _measure(configs[0], base, pairs)
    started = time.perf_counter()
    for config in configs:
        settings = {**hardware_settings(), **config.settings, "model_name_or_path": base}
        file = folder / f"{config.variant}.yaml"
        own = {"dataset_name": str(folder / "data"), "output_dir": str(folder / config.variant), "report_to": "none"}
        file.write_text(yaml.safe_dump({**settings, **own, "save_strategy": "no"}))
        command = [str(Path(sys.executable).parent / "trl"), "dpo", "--config", str(file)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "CI": "1"})
        policy, _ = load_adapter(config, folder / config.variant)
        measure(policy)
    return time.perf_counter() - started


def by_loop(configs: Sequence[RunConfig], folder: Path, *, precompute: bool) -> float:
    """Rungs b and c: stock DPOTrainer, the model loaded once, an adapter a run. Seconds."""
    import datasets
    from transformers import AutoTokenizer
    from trl import DPOTrainer, get_peft_config
    from trl.trainer.utils import create_model_from_path

    from trainers.components.settings import hardware_settings, parse_settings, resolve_model
    from trainers.data.pairs import load_pairs

    datasets.disable_progress_bars()
    path = resolve_model(str(configs[0].settings["model_name_or_path"]))
    tokenizer, base = AutoTokenizer.from_pretrained(path), create_model_from_path(path)
    pairs = load_pairs(configs[0].data, 0, tokenizer)
    rows = datasets.Dataset.from_list(list(pairs.train))
    measure = _measure(configs[0], path, pairs)
    started = time.perf_counter()
    for config in configs:
        settings = {**hardware_settings(), **config.settings, "precompute_ref_log_probs": precompute}
        args, model_args = parse_settings(settings, folder / config.variant, config.seed)
        args.model_init_kwargs = None
        trainer = DPOTrainer(
            model=base,
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=get_peft_config(model_args),
        )
        trainer.train()
        measure(trainer.model)
        base = trainer.model.unload()
        base.__dict__.pop("forward", None)
    return time.perf_counter() - started


def _measure(config: RunConfig, path: str, pairs: Any) -> Any:
    """The evaluator on one adapter, its reference numbers computed already."""
    from transformers import AutoTokenizer
    from trl.trainer.utils import create_model_from_path

    from trainers.evaluation.evaluate import evaluate, reference_numbers

    tokenizer = AutoTokenizer.from_pretrained(path)
    numbers = reference_numbers(create_model_from_path(path), tokenizer, pairs, config.evaluation)

    def measure(policy: Any) -> None:
        policy.eval()
        evaluate(policy, tokenizer, pairs, config.evaluation, numbers)

    return measure


def by_workers(configs: Sequence[RunConfig], folder: Path, placement: Placement) -> tuple[float, list[RunResult]]:
    """Rungs d and e. Seconds of the runs, and what they came to; the workers have loaded the base and the pairs before.

    Raises RuntimeError where one of them comes to nothing.
    """
    pool = Process("dpo", None, folder / "logs")
    try:
        warm = [
            c.model_copy(update={"settings": {**c.settings, "max_steps": 1}, "seed": 1 + i})
            for i, c in enumerate(configs[: len(pool.capacity.workers)])
        ]
        _train(pool, warm, folder / "warm", Placement())
        started = time.perf_counter()
        results = _train(pool, configs, folder / "runs", placement)
        return time.perf_counter() - started, results
    finally:
        pool.close(now=True)


def growing() -> Placement:
    """Packs that grow while that pays, in one worker for each GPU or core."""
    return Placement(together=32, begin=0, workers=len(visible_gpus(os.environ)) or usable_cores())


def _train(pool: Process, configs: Sequence[RunConfig], folder: Path, placement: Placement) -> list[RunResult]:
    for config in configs:
        pool.submit(Job(config, folder / config.key, placement=placement))
    results: list[RunResult] = []
    while len(results) < len(configs):
        for event in pool.events(1.0):
            if isinstance(event, Lost):
                raise RuntimeError(f"{event.reason}\n{event.log_tail}")
            if isinstance(event, Finished):
                if not event.result.measurements:
                    raise RuntimeError(f"run {event.key} came to nothing: {event.result.message}")
                results.append(event.result)
    return results


def tokens(config: RunConfig, folder: Path) -> tuple[float, float]:
    """Tokens of a step as stock TRL pads them, and as they lie in a pack; means over a run."""
    from trainers.dpo import DPOTrainerWorker
    from trainers.multi_lora.layout import micro_batch

    few = config.evaluation.model_copy(update={"prompts": 1, "max_new_tokens": 1, "pairs": 2})
    member = DPOTrainerWorker().make(Job(config.model_copy(update={"evaluation": few}), folder, pause_at=1))
    batches = [micro_batch([member.data.rows[i] for i in part.rows]) for step in member.run.steps for part in step]
    return statistics.fmean(b.rows * b.length for b in batches), statistics.fmean(len(b.tokens) for b in batches)


def one_rung(name: str, configs: Sequence[RunConfig], folder: Path) -> tuple[float, ...]:
    """Seconds of all runs of one rung, in this process; for "tokens" see there."""
    match name:
        case "a":
            return (by_commands(configs, folder),)
        case "b" | "c":
            return (by_loop(configs, folder, precompute=name == "c"),)
        case "d" | "e":
            return (by_workers(configs, folder, growing() if name == "e" else Placement())[0],)
        case "tokens":
            return tokens(configs[0], folder)
    raise ValueError(name)


def measure_rung(name: str, options: argparse.Namespace, count: int) -> float:
    """Seconds a run of one rung, in fresh processes."""
    if name == "c2":
        with tempfile.TemporaryDirectory() as scratch:
            started = [_start("c", options, count, 1, Path(scratch) / str(i)) for i in range(2)]
            return sum(_printed(process)[0] for process in started) / 2 / (2 * count)
    threads = options.threads if name in ("b", "c") else usable_cores()
    with tempfile.TemporaryDirectory() as scratch:
        (seconds,) = _printed(_start(name, options, count, threads, Path(scratch)))
        return seconds / count


def _start(name: str, options: argparse.Namespace, count: int, threads: int, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.benchmarks.ladder", options.world, "--rung", name, "--folder", str(folder)]
    command += ["--runs", str(count), "--steps", str(options.steps)]
    command += ["--model", options.model] if options.model else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_DATASETS_CACHE": str(folder / "cache")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _printed(process: subprocess.Popen[str]) -> tuple[float, ...]:
    """The numbers that a rung prints last."""
    out, error = process.communicate()
    if process.returncode:
        raise SystemExit(error[-3000:])
    return tuple(json.loads(out.strip().splitlines()[-1]))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", nargs="?", default="embedded", choices=WORLDS)
    parser.add_argument("--model", help="folder or Hub id of the model, where the world names none")
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--commands", type=int, help="runs of rung a in each repeat  [default: as many as --runs]")
    parser.add_argument("--loops", type=int, help="runs of rungs b, c and c2 in each repeat  [default: the same]")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rungs", nargs="+", default=["a", "b", "c", "c2", "d", "e"])
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of rungs b and c")
    parser.add_argument("--rung", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rung:
        about = WORLDS[options.world]
        named = {"model_name_or_path": options.model} if options.model else {}
        settings = {**about["settings"], **named}
        configs = runs({**about, "settings": settings}, options.runs, options.steps)
        print(json.dumps(one_rung(options.rung, configs, options.folder)))  # noqa: T201
        return
    seen: dict[str, list[float]] = {name: [] for name in options.rungs}
    for _ in range(options.repeats):
        for name in options.rungs:
            fewer = {"a": options.commands, "b": options.loops, "c": options.loops, "c2": options.loops}.get(name)
            seconds = measure_rung(name, options, fewer or options.runs)
            seen[name].append(seconds)
            print(f"  {name:2} {seconds:6.2f}", file=sys.stderr, flush=True)  # noqa: T201
    what = f"{options.runs} runs of {options.steps} steps (a: {options.commands}, b and c: {options.loops})"
    print(f"{options.world}: {what}, seconds a run, {options.repeats} repeats")  # noqa: T201
    for name, found in seen.items():
        ratios = [s / e for s, e in zip(found, seen["e"], strict=True)] if "e" in seen else []
        of_e = f"; {statistics.median(ratios):.2f} times e ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
        spread = f"({min(found):.2f} to {max(found):.2f})"
        print(f"  {name:2} {statistics.median(found):6.2f} {spread}{of_e}")  # noqa: T201
    with tempfile.TemporaryDirectory() as scratch:
        padded, packed = _printed(_start("tokens", options, 1, usable_cores(), Path(scratch)))
    print(  # noqa: T201
        f"  tokens a step: {padded:.0f} padded, {packed:.0f} in a pack; by arithmetic alone of training e takes "
        f"{(2 * packed + padded / options.runs) / (3 * padded):.2f} of b's time"
    )


if __name__ == "__main__":
    main()
