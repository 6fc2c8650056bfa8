"""TRL's own losses timed on the embedded model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from studies.design.speed import speed_asked
from studies.losses.table import LOSSES
from studies.records import RunConfig
from studies.spec import Study, load_study
from trainers.speed.bench import Bench, make_bench
from trainers.speed.measure import step_seconds, time_losses
from trainers.speed.rounds import clock_of

NEEDS = {"robust": "{base: {label_smoothing: 0.1}}", "exo_pair": "{base: {label_smoothing: 0.1}}"}
STUDY = """
study: timed
base: {{model_name_or_path: embedded, use_peft: {peft}, lora_r: 8, lora_target_modules: all-linear, max_steps: 4,
  per_device_train_batch_size: 16, gradient_accumulation_steps: {together}}}
data: {{path: embedded, rows: 128, eval_rows: 8}}
baseline: sigmoid
variants:
{variants}
  mix: {{loss_type: [sigmoid, ipo], loss_weights: [0.7, 0.3]}}
space: {{beta: {{low: 0.05, high: 0.5}}}}
objective: {{metric: gold}}
"""


def runs(folder: Path, losses: list[str], *, peft: bool = True, together: int = 1) -> dict[str, RunConfig]:
    variants = "\n".join(f"  {loss}: {NEEDS.get(loss, '{}')}" for loss in losses)
    text = STUDY.format(variants=variants, peft=str(peft).lower(), together=together)
    if not peft:
        text = text.replace("lora_r: 8, lora_target_modules: all-linear, ", "")
    (folder / "study.yaml").write_text(text)
    asked = speed_asked(Study.of(load_study(folder / "study.yaml")))
    assert asked is not None
    assert asked.unlike == {}
    return dict(asked.runs)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Of every loss that TRL has."""
    folder = tmp_path_factory.mktemp("bench")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make_bench(runs(folder, list(LOSSES)), "sigmoid", None, folder)
    torch.set_num_threads(threads)


def nothing_said(doing: str, left: float | None) -> None:
    pass


@pytest.mark.slow  # what it times hangs on what else the machine does
def test_every_loss_is_as_fast_as_sigmoid_and_a_planted_twentieth_of_a_step_is_found(bench: Bench) -> None:
    clock = clock_of(torch.device("cpu"))
    step = step_seconds(bench, "sigmoid", clock)
    tasks = bench.losses()
    own = tasks["hinge"]

    def burnt() -> None:
        own()
        until = time.thread_time() + 0.05 * step
        while time.thread_time() < until:
            pass

    found = time_losses({**tasks, "burnt": burnt}, "sigmoid", step, clock, nothing_said, most=6.0)
    assert {*found.ratios} == {*LOSSES, "mix", "burnt"} - {"sigmoid"}
    assert abs(found.null.value - 1) < 0.005
    burnt_ratio = found.ratios["burnt"]
    assert burnt_ratio.low > 1.03
    slow = {name: ratio for name, ratio in found.ratios.items() if ratio.high > 1.03 and name != "burnt"}
    assert slow == {}


def test_the_loss_is_trls_own_of_each_variant(bench: Bench) -> None:
    """On the log-probs of the untrained model every loss has a value of its own that TRL's formula gives."""
    batch = bench.batches[0]
    values = {name: float(head._compute_loss(bench.model, dict(batch), False)) for name, head in bench.heads.items()}
    assert values["sigmoid"] == pytest.approx(0.6931, abs=1e-3)
    assert values["hinge"] == pytest.approx(1.0, abs=1e-3)
    assert values["bco_pair"] == pytest.approx(2 * 0.6931, abs=1e-2)
    assert values["mix"] == pytest.approx(0.7 * values["sigmoid"] + 0.3 * values["ipo"], rel=1e-5)


def test_timing_leaves_the_model_as_it_was(bench: Bench) -> None:
    before = {name: value.clone() for name, value in bench.model.named_parameters() if value.requires_grad}
    for task in bench.whole_steps(bench.batches[1]).values():
        task()
    after = dict(bench.model.named_parameters())
    assert before
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_full_training_with_accumulation_is_timed_by_the_whole_step(tmp_path: Path) -> None:
    full = make_bench(runs(tmp_path, ["sigmoid", "ipo"], peft=False, together=3), "sigmoid", None, tmp_path)
    assert (full.together, full.trainer.ref_model) == (3, None)
    clock = clock_of(torch.device("cpu"))
    step = step_seconds(full, "sigmoid", clock)
    part = clock(full.micro_batch("sigmoid", full.batches[0]))
    assert step > 1.5 * part
    found = time_losses(full.losses(), "sigmoid", step / 3, clock, nothing_said, most=1.0)
    assert set(found.ratios) == {"ipo", "mix"}
