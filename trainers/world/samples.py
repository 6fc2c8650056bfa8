"""Prints reviews of the embedded model before and after training; knows no run and measures only gold.

``python -m trainers.world.samples [ADAPTER_DIR] [--task K] [--n N] [--seed S]``
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel

from trainers.world.gold import N_TASKS, TASKS, gold_reward
from trainers.world.grammar import prompts
from trainers.world.pairs import Completion, load_model, load_tokenizer, sample_completions


def sample_lines(model: torch.nn.Module, asked: Sequence[str], task: int, seed: int) -> list[str]:
    """One line for each prompt: gold, the prompt and the model's review."""
    completions = sample_completions(model, load_tokenizer(), asked, seed)
    return [_line(completion, task) for completion in completions]


def _line(completion: Completion, task: int) -> str:
    """``+3.1  a plain review of the new film : the plot is superb .``, with ``...`` where it did not end."""
    gold = gold_reward(completion.words, completion.ended, task)
    return f"{gold:+6.2f}  {completion.prompt}{completion.text}{'' if completion.ended else ' ...'}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: samples of the reference, and of the adapter on it where one is given, under the same
    seed.
    """
    parser = argparse.ArgumentParser(description="Print reviews of the embedded model before and after training.")
    parser.add_argument("adapter", nargs="?", type=Path, help="folder of a trained PEFT adapter")
    parser.add_argument(
        "--task", type=int, default=0, choices=range(N_TASKS), help="gold task to score with (default 0)"
    )
    parser.add_argument("--n", type=int, default=8, help="how many samples (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="sampling seed (default 0)")
    options = parser.parse_args(arguments)
    asked = [prompts("plain")[i % len(prompts("plain"))] for i in range(options.n)]
    print(f"gold task {options.task}: {TASKS[options.task].name}")  # noqa: T201
    print("before training:", *sample_lines(load_model(), asked, options.task, options.seed), sep="\n")  # noqa: T201
    if options.adapter is not None:
        tuned = PeftModel.from_pretrained(load_model(), options.adapter).eval()
        print("after training:", *sample_lines(tuned, asked, options.task, options.seed), sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
