"""What ten minutes on a GPU answer, by itself and without a network.

    python -m tests.benchmarks.on_gpu --out DIR [--budget SECONDS] [--tiny] [--stages first second NAME ...]

Stages stand in order of value. Each runs in a process of its own with a limit, so that one that fails or hangs leaves
the others; of a budget that is too short the last ones are left out. Models are random Llamas of SmolLM2-135M's and
Llama-3.2-1B's shape with the embedded world's tokenizer, data are pairs of 96 + 160 of its words, 4 a step: nothing is
loaded from anywhere. `--tiny` makes all of it small, to try every stage on a CPU in minutes; its figures mean nothing.

DIR/figures.jsonl gets a JSON line as soon as a figure is known: stage, at_s (seconds since the stage began), what, and
the figures. DIR/log.txt has all output, with the stack of a stage that was cut; DIR/profile-STAGE.txt the operators
that take most; DIR/pytest.txt the tests. The lines that decide are printed again at the end. The exit code is 0 where
every stage came to its end, nothing failed and everything holds; else 1; 2 for a command that cannot be carried out.

What the lines of a stage say (milliseconds `_ms`, seconds `_s`, peak memory of the GPU `peak_mib`):

    every stage     `failed` in a line: what went wrong there; the rest of the stage was measured all the same
                    `end`: how it ended (done, cut at its limit, or its exit code), its seconds and its limit
    environment     `device`, `versions`; `kernels chosen`: attention's kernel for a pack's rows (causal), for grouped
                    heads, for one query behind a cache; `launch`: the host's time to launch a kernel, and with the
                    kernel's own; `attention`: there and back at a length that is new to the kernel, and known;
                    `workers`: how many a sweep has, and GPUs that torch sees in one; `doctor`: what is not ok
    pack-135m, -1b  `setup`: the host's seconds to make a run ready; `pack`: a pass of so many runs as it trains, for
                    each run (`a_run_ms`), with a wait behind it, and until all is launched (`host_ms`); `profile`:
                    kernels a pass, share of the time in which the GPU works, what takes most; `waits`: how often a
                    pass waits for the device, and at which lines: it `holds` where it never does; `attention by`: the
                    pass without cuDNN's attention; `stock`: a step of stock DPOTrainer on the same pairs, with its
                    best flags (precomputed reference, no checkpointing) and with TRL's defaults; `ratio`: how many
                    times a pack's step of a run goes into a step of stock with its best flags, in the same call
    parity          `float32`, `bf16`: how far a pack's adapter is from stock's, and stock's from itself where it
                    rounds otherwise; it `holds` at up to 3 times. `float64`: the largest difference of a weight,
                    which holds below 1e-9. `repeated`: the largest difference of one run trained twice
    quickstart      `run`, `table`, `export`, `verify`: exit code and seconds of the command on the shipped study
    sampling-...    `sampled`: tokens a second of all policies with the reference reading after them, rows at once,
                    passes through the model; `sampled without cuDNN`; `sampled at once`: eight times the prompts in
                    one batch; `scored`: answer tokens a second of held-out pairs; `evaluated`: one evaluation
    ladder-...      `rung`: seconds a run with its evaluation, by packs that grow (e), by a loop over stock (b), with
                    its best flags (c), and by a pack that begins with all runs; `each`: what the runs tell
    memory          `limited`: a pack under a limit that only half of it fits into: how many trained together, and how
                    far the adapters are from those of packs that fitted; it holds where all runs came to their end
    tests           `marked gpu`, `of packs`: the last line of pytest, and the tests that failed
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.benchmarks.gpu_stages.figures import Figures, is_bad, read_figures, recap
from tests.benchmarks.gpu_stages.plan import GROUPS, STAGES, Stage, chosen, limit

_ROOT: Final = Path(__file__).parents[2]
_MODULE: Final = "tests.benchmarks.on_gpu"
_SPARE: Final = 3.0
"""Seconds of the budget that are kept for the end."""
_STACK: Final = 2.0
"""A stage that is cut has so many seconds to write where it stood."""
_OF_THE_USER: Final = ("OPTUNA_STORAGE", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME")
"""Variables that name stores: the quickstart is to use none of the user's."""


def main(words: Sequence[str] | None = None) -> int:
    """Parse, run the stages, print what decides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for figures and output")
    parser.add_argument("--budget", type=_seconds, default=480.0, metavar="SECONDS", help="in all  [default: 480]")
    parser.add_argument("--tiny", action="store_true", help="everything small, to try it on a CPU")
    parser.add_argument("--stages", nargs="+", default=["first"], choices=[*GROUPS, *STAGES], metavar="NAME")
    parser.add_argument("--one", choices=list(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.one:
        measure_stage(STAGES[options.one], options.out, options.work, tiny=options.tiny)
        return 0
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {options.out} cannot be made ({error}): name a folder that can be written")
    with tempfile.TemporaryDirectory(prefix="on-gpu-", ignore_cleanup_errors=True) as work:
        return run_stages(chosen(options.stages), options.out.absolute(), Path(work), options.budget, tiny=options.tiny)


def _seconds(text: str) -> float:
    """A positive number of seconds."""
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"the budget must be more than 0 seconds, but it is {text}")
    return seconds


def run_stages(stages: Sequence[Stage], out: Path, work: Path, budget: float, *, tiny: bool) -> int:
    """Run the stages one after the other and print the lines that decide. The exit code."""
    end, before = time.monotonic() + budget - _SPARE, len(read_figures(out))
    for i, stage in enumerate(stages):
        figures, allowed = Figures(out, stage.name), limit(stage, stages[i + 1 :], end - time.monotonic())
        if allowed is None:
            ended, took = "not begun: too little of the budget is left", 0.0
        else:
            ended, took = run_stage(stage, out, work, allowed, tiny=tiny)
        figures.note("end", ended=ended, seconds=took, limit=allowed)
    lines = read_figures(out, before)
    for line in recap(lines, {stage.name: ("end", *stage.decides) for stage in stages}):
        print(line)  # noqa: T201
    return 1 if any(map(is_bad, lines)) else 0


def run_stage(stage: Stage, out: Path, work: Path, allowed: float, *, tiny: bool) -> tuple[str, float]:
    """One stage in a process group of its own, which is killed with all its children when its time is over. How it
    ended, and seconds.
    """
    command = [sys.executable, "-u", "-W", "ignore", "-m", _MODULE, "--one", stage.name]
    command += ["--out", str(out), "--work", str(work), *(["--tiny"] if tiny else [])]
    began = time.monotonic()
    with (out / "log.txt").open("ab") as log:
        log.write(f"\n===== {stage.name}, {allowed:.0f} s at most\n".encode())
        log.flush()
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=_ROOT, env=_environment(os.environ, work), start_new_session=True
        )
        try:
            code = process.wait(allowed)
            ended = "done" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            ended = "cut"
            process.send_signal(signal.SIGUSR1)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STACK)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return ended, time.monotonic() - began


def _environment(own: Mapping[str, str], work: Path) -> dict[str, str]:
    """Of a stage: the user's, less what names stores, with the project to be imported and no network asked."""
    paths = [str(_ROOT), *filter(None, own.get("PYTHONPATH", "").split(os.pathsep))]
    kept = {name: value for name, value in own.items() if name not in _OF_THE_USER}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_CACHE": str(work / "cache"),
        "TOKENIZERS_PARALLELISM": "false",
    }


def measure_stage(stage: Stage, out: Path, work: Path, *, tiny: bool) -> None:
    """One stage, in this process."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # asked for when the stage is cut
    from tests.benchmarks.gpu_stages.inputs import SIZES

    module = importlib.import_module(f"tests.benchmarks.gpu_stages.{stage.module}")
    module.measure(Figures(out, stage.name), SIZES["tiny" if tiny else stage.shape], work)


if __name__ == "__main__":
    sys.exit(main())
