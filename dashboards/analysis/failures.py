"""What failed in a study, in words: how many runs, and which, by cause and message; knows no store and no table."""

from __future__ import annotations

import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from studies.records import PROBE, Failure, RunRecord
from studies.text.plural import so_many

Value = TypeVar("Value", bound=Hashable)

LOG_LINES = 12  # of the log of a group's first run
MESSAGE_LINES = 6
_OWN = re.compile(r"[0-9a-f]{8,}|\d+(\.\d+)?")  # keys, addresses and numbers: what one run's message has for itself


def tell(failures: Mapping[Failure, int], configs: int | None = None, failed: str = "failed") -> str:
    """How many runs failed, by kind: `2 runs failed (1 collapsed, 1 drifted), 1 run could not be trained (1 refused)`;
    "" where none did. `configs`: of how many configs those are that failed by their config; `failed`: what is said of
    those.
    """
    said = []
    for by_config, what in ((True, failed), (False, "could not be trained")):
        kinds = {kind: failures[kind] for kind in Failure if kind.by_config is by_config and failures.get(kind)}
        n = sum(kinds.values())
        by_kind = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        of = f" of {so_many(configs, 'config')}" if by_config and configs is not None and configs != n else ""
        said += [f"{so_many(n, 'run')}{of} {what} ({by_kind})"] if n else []
    return ", ".join(said)


def counted(records: Iterable[RunRecord]) -> Counter[Failure]:
    """How many runs failed, by kind."""
    return Counter(run.failure for run in records if run.failure is not None)


def summary(records: Sequence[RunRecord]) -> str:
    """How many runs failed, of how many configs where that is another number; "" where none did."""
    configs = {
        (run.variant, run.scenario, *sorted(run.knobs.items()))
        for run in records
        if run.failure is not None and run.failure.by_config
    }
    return tell(counted(records), len(configs))


def failed_lines(records: Sequence[RunRecord], width: int) -> list[str]:
    """All runs that failed: what they have in common once, then which they are; nothing where none did."""
    groups: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for run in records:
        if run.failure is not None:
            groups[run.failure, str(run.cause), _OWN.sub("#", message_of(run))].append(run)
    by_kind = sorted(groups.values(), key=lambda of: (list(Failure).index(of[0].failure or Failure.DIVERGED), -len(of)))
    return [line for of in by_kind for line in (*_group(of, width), "")]


def _group(runs: Sequence[RunRecord], width: int) -> list[str]:
    first = next((run for run in runs if run.facts.get("log_tail")), runs[0])
    message = message_of(first).splitlines()[:MESSAGE_LINES]
    if len({message_of(run) for run in runs}) > 1:
        message[0] = f"such as: {message[0]}"
    log = first.facts.get("log_tail", "").strip().splitlines()[-LOG_LINES:]
    return [
        f"{tell(counted(runs))}:",
        *(line for text in message for line in _wrapped(text, width, "    ")),
        *(line for text in _names(runs) for line in _wrapped(text, width, "  ")),
        f"  first: run {first.key}, MLflow run {first.run_id}",
        *([f"  its log ends with these lines: {first.facts['log']}"] if log and "log" in first.facts else []),
        *(f"    {line[: width - 4]}" for line in log),
    ]


def message_of(run: RunRecord) -> str:
    """What the run said at its end; of drift, which no trainer tells, what was measured."""
    if run.failure is Failure.DRIFTED:
        return f"samples {run.metrics['length_ratio']:.2f} times as long as the reference's"
    return run.facts.get("message", "").strip() or "no message"


def _names(runs: Iterable[RunRecord]) -> list[str]:
    """Which runs these are, in few words: variants with the same trials, blocks and seeds together."""
    places: dict[tuple[str, str, bool], set[tuple[int, int, int]]] = defaultdict(set)
    for run in runs:
        places[run.variant, run.scenario, run.phase == PROBE].add((run.trial, run.block, run.seed))
    variants: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (variant, scenario, timed), of in places.items():
        found = [_numbers("timed round", [seed for *_, seed in of])] if timed else _trials(of)
        for words in found:
            variants[scenario, words].append(variant)
    return [f"{', '.join(names)} in {scenario}: {words}" for (scenario, words), names in variants.items()]


def _trials(of: Iterable[tuple[int, int, int]]) -> list[str]:
    """(trial, block, seed) as words, trials with the same blocks and seeds together."""
    seeds: dict[tuple[int, int], set[int]] = defaultdict(set)
    for trial, block, seed in of:
        seeds[trial, block].add(seed)
    blocks: dict[int, dict[int, frozenset[int]]] = defaultdict(dict)
    for (trial, block), found in seeds.items():
        blocks[trial][block] = frozenset(found)
    return [
        "; ".join((_numbers("trial", trials), _numbers("block", these), _numbers("seed", sorted(those))))
        for of_trials, trials in _alike({trial: frozenset(of.items()) for trial, of in blocks.items()}).items()
        for those, these in _alike(dict(of_trials)).items()
    ]


def _alike(values: Mapping[int, Value]) -> dict[Value, list[int]]:
    """Value -> the keys that have it."""
    keys: dict[Value, list[int]] = defaultdict(list)
    for key, value in values.items():
        keys[value].append(key)
    return keys


def _numbers(word: str, numbers: Iterable[int]) -> str:
    """`trials 0-3, 7`."""
    ordered = sorted(set(numbers))
    starts = [n for n in ordered if n - 1 not in ordered]
    ends = [n for n in ordered if n + 1 not in ordered]
    ranges = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return f"{word}{'s' if len(ordered) > 1 else ''} {', '.join(ranges)}"


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
