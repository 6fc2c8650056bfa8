"""From `sweeper run` to the first training step, `python -m tests.benchmarks.first_step [WORLD ...]`.

Worlds: quickstart; stories (stories260k and the first pairs of hh_harmless_test, a small grid); large (a Llama of
SmolLM2-135M's shape with random weights, 4 runs of 4 steps on pairs of up to 96 tokens). Each sweep in a process of its
own, which trains what it sweeps, so that all of it is seen: seconds of the clock and of the processor until the model
is loaded, until it was measured untrained, until the first step of a run in training is done, and until the sweep is
over; and the passes that trained nothing before that step, with their share of all passes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[3] / "shared"
STUDY = """
study: {name}
base:
  model_name_or_path: {model}
  use_peft: true
  lora_r: 8
  lora_target_modules: all-linear
  per_device_train_batch_size: 4
  learning_rate: 5.0e-4
  max_steps: {steps}
data: {{path: {data}, rows: {rows}, eval_rows: 32, max_length: {length}}}
sampler: grid
space: {{beta: {{values: [0.1, 0.3]}}}}
variants: {{{variants}}}
evaluate: {{prompts: 16, max_new_tokens: 16, pairs: 32}}
objective: {{metric: ranking_gain}}
budget: {{trials: 2}}
"""


def study(world: str, folder: Path, shared: Path) -> str:
    """What to run, written into the folder where it is not shipped."""
    if world == "quickstart":
        return world
    model, data = shared / "models" / "stories260k", shared / "data"
    about: dict[str, Any] = {"name": world, "model": model}
    if world == "stories":
        losses = ("sigmoid", "hinge", "ipo", "bco_pair", "apo_zero", "nca_pair", "sppo_hard", "aot")
        about |= {"data": write_text(data / "hh_harmless_test.jsonl", folder), "steps": 40, "rows": 256, "length": 384}
        about |= {"variants": ", ".join(f"{loss}: {{}}" for loss in losses)}
    else:
        about |= {"data": write_text(data / "polite_instruct.jsonl", folder), "steps": 4, "rows": 128, "length": 96}
        about |= {"variants": "sigmoid: {}, hinge: {}", "model": write_large(folder / "model", model)}
    file = folder / "study.yaml"
    file.write_text(STUDY.format(**about), encoding="utf-8")
    return str(file)


def write_text(source: Path, folder: Path) -> Path:
    """Pairs of messages as plain text, as the tokenizer has no chat template."""
    file = folder / source.name
    with file.open("w", encoding="utf-8") as out:
        for line in source.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            out.write(json.dumps({name: _text(row[name]) for name in ("prompt", "chosen", "rejected")}) + "\n")
    return file


def _text(side: Any) -> str:
    return side if isinstance(side, str) else "\n\n".join(f"{m['role']}: {m['content']}" for m in side)


def write_large(folder: Path, tokenizer: Path) -> Path:
    """A random model of SmolLM2-135M's shape; the ids of the tokenizer are the first of its vocabulary."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tests.benchmarks.memory import SHAPE

    loaded = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    ids = {name: getattr(loaded, name) for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
    LlamaForCausalLM(LlamaConfig(**SHAPE, **ids)).save_pretrained(folder)
    loaded.save_pretrained(folder)
    return folder


def sweep(name: str) -> None:
    """Run the study in this folder and process and print, last, what was seen."""
    began = time.perf_counter()
    seen: dict[str, Any] = {"passes": 0}
    sys.argv = ["sweeper", "run", name, "--executor", "inline", "--workers", "1"]
    from sweeper.cli.app import main
    from trainers.components import worker_cache as warm
    from trainers.evaluation import evaluate
    from trainers.pack.engine import Engine
    from trainers.pack.pack import Pack

    load, advance, accumulate = warm.load_base, Pack.advance, Engine.accumulate
    untrained = evaluate.reference_numbers

    def note(what: str) -> None:
        if what not in seen:
            seen[what] = (time.perf_counter() - began, time.process_time())
            print(f"  {what:8} {seen[what][0]:7.1f} ({seen[what][1]:.1f})", file=sys.stderr, flush=True)  # noqa: T201

    def loaded(*arguments: Any) -> Any:
        found = load(*arguments)
        note("loaded")
        return found

    def measured(*arguments: Any) -> Any:
        found = untrained(*arguments)
        note("measured")
        return found

    def advanced(self: Pack, **options: Any) -> None:
        seen.setdefault("idle", seen["passes"])
        advance(self, **options)
        if any(member.step for member in self.members):
            note("first")

    def counted(self: Engine, *arguments: Any) -> Any:
        seen["passes"] += 1
        return accumulate(self, *arguments)

    for place, name, function in (
        (warm, "load_base", loaded),
        (warm, "reference_numbers", measured),
        (Pack, "advance", advanced),
        (Engine, "accumulate", counted),
    ):
        setattr(place, name, function)
    try:
        main()
    except SystemExit as end:
        seen["code"] = end.code
    note("whole")
    print(json.dumps(seen))  # noqa: T201


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="*", default=["quickstart", "stories", "large"])
    parser.add_argument("--shared", type=Path, default=SHARED, help="models and data")
    parser.add_argument("--sweep", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sweep:
        sweep(options.sweep)
        return
    for world in options.worlds:
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, __file__, "--sweep", study(world, Path(scratch), options.shared)]
            done = subprocess.run(command, cwd=scratch, stdout=subprocess.PIPE, text=True, check=True)
        seen = json.loads(done.stdout.strip().splitlines()[-1])
        if "first" not in seen:
            raise SystemExit(f"{world}: nothing was trained\n{done.stdout[-3000:]}")
        print(f"{world}: seconds (of the processor)")  # noqa: T201
        for what in ("loaded", "measured", "first", "whole"):
            print(f"  {what:8} {seen[what][0]:7.1f} ({seen[what][1]:.1f})")  # noqa: T201
        share = seen["idle"] / seen["passes"]
        print(f"  passes that trained nothing before: {seen['idle']} of {seen['passes']} ({share:.0%})")  # noqa: T201


if __name__ == "__main__":
    main()
