"""Looks at a study's data and models before anything of it runs, and tells what is wrong with them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import typer

from studies.text.mistakes import of_option
from sweeper.cli.refusal import refuse

if TYPE_CHECKING:
    from dashboards.store.records_file import Recorded
    from studies.records import DataConfig
    from studies.spec import ResolvedVariant, Study, StudySpec
    from trainers.data.pairs import DataError
    from trainers.data.sources import Rows


def recorded_in(file: Path, study: Study, name: str = "--records") -> Recorded:
    """The records that a file, given as `name`, holds of the study; exits with 2 where it is of another."""
    from dashboards.store.records_file import read_records

    found = read_records(file)
    if found.study != study.spec.study:
        wrong = f"holds the study {found.study!r}, and {study.spec.study!r} is asked for."
        refuse([of_option(name, file, wrong, wrong)])
    return found


def refuse_output(output: Path, study: str, spec: StudySpec, records: Path | None = None) -> None:
    """Exit with 2 where an output would take the place of what a study or its sweeps need, or lie among it. `records`:
    the file that is read in place of the store.
    """
    from dashboards.store.addresses import absolute_url, sqlite_file
    from dashboards.store.connection import store_uri
    from dashboards.store.databases import OPTUNA
    from studies.records import EMBEDDED_MODELS
    from studies.schema.paths import existing, read_by

    here, file = Path.cwd(), existing(study)
    storage = absolute_url(os.environ.get(OPTUNA.variable) or "sqlite:///optuna.db", here)
    needed = {
        "the study file": file if file is not None and file.is_file() else None,
        "the file of records": records,
        "the folder of its runs": here / spec.output.folder / spec.study,
        "Optuna's storage": sqlite_file(storage),
        "the MLflow store": sqlite_file(store_uri(None, here)),
        **{f"what {k} names": existing(n) for k, n in read_by(spec).items() if n not in EMBEDDED_MODELS},
    }
    place = output.resolve()
    for what, path in needed.items():
        if path is not None and place.is_relative_to(path.resolve()):
            refuse([of_option("--output", str(output), f"is {what}, or lies in it: name another place.")])


def read_data(data: DataConfig) -> Rows | DataError | None:
    """The rows of local data, or why there are none; None of what lies elsewhere."""
    from sweeper.cli.display import shown
    from trainers.data.pairs import DataError, read_local

    try:
        with said_if_long(f"Reading {shown(data.path)} ..."):
            return read_local(data)
    except DataError as error:
        return error


def try_data(rows: Rows, study: Study) -> tuple[list[str], list[str]]:
    """What the tokenizers of a study make of rows: problems, and what to know."""
    from sweeper.cli.display import shown
    from trainers.preview import preview

    problems: list[str] = []
    notes: list[str] = []
    for data, where, models in _looks(study):
        for model, revision, code in models:
            with said_if_long(f"Trying the tokenizer of {shown(model)} on rows of the data ..."):
                seen = preview(rows, data, model, revision, code, study.spec.runs.blocks[0])
            problems += [where + problem for problem in seen.problems]
            notes += [where + note for note in seen.notes]
            notes += [where + note for note in _few_prompts(seen.prompts, study.spec)]
    return list(dict.fromkeys(problems)), notes


def _few_prompts(there: int | None, spec: StudySpec) -> Iterator[str]:
    """That a win rate rests on fewer prompts than the study asks for, as its pairs share them."""
    asked = min(spec.evaluation.prompts, spec.data.eval_rows or 0)
    if there is not None and there < asked and "win_rate" in spec.objective.metric:
        yield (
            f"A draw holds out {there:,} prompts, not {asked:,}, as pairs share them: {spec.objective.metric} rests on "
            f"those alone, and shows less than the plan says. Raise data.eval_rows."
        )


def look_at_data(study: Study) -> tuple[str, ...]:
    """Say what is made of local data, and give it; or exit with 2 where no run could use them, before any store is
    made.
    """
    spec = study.spec
    from sweeper.cli.display import shown

    if spec.trainer != "dpo" or spec.data.path == "embedded":
        return ()
    rows = read_data(spec.data)
    if rows is None:
        return ()
    if isinstance(rows, Exception):
        refuse(rows.problems)
    problems, notes = try_data(rows, study)
    if problems:
        refuse(problems)
    left_out = bad_rows_line(rows.read, rows.dropped)
    if left_out and not any("bad and left out" in note for note in notes):
        notes.insert(0, left_out)
    said = tuple(dict.fromkeys([*notes, *rows.notes]))
    for note in said:
        typer.echo(f"data: {shown(note)}")
    return said


_Model = tuple[str, str | None, bool]  # its name, its revision, whether its own code may run


def _looks(study: Study) -> Iterator[tuple[DataConfig, str, Sequence[_Model]]]:
    """Data as scenarios have them, each once, with the scenarios' names where there are several, and the models that
    are trained on them. Flipped labels are the same pairs.
    """
    from studies.spec import scenario_data

    found: dict[str, tuple[DataConfig, list[str], set[_Model]]] = {}
    for name, scenario in study.spec.scenarios.items():
        data = scenario_data(study.spec.data, scenario).model_copy(update={"label_flip": 0.0, "flip_by": "chance"})
        _, names, models = found.setdefault(data.model_dump_json(), (data, [], set()))
        names.append(name)
        models |= _models(study.within(name).variants)
    for data, names, models in list(found.values())[:_MOST_DATA]:
        where = f"{', '.join(names)}: " if len(found) > 1 else ""
        yield data, where, sorted(models, key=str)[:_MOST_MODELS]


def _models(variants: Mapping[str, ResolvedVariant]) -> set[_Model]:
    from studies.schema.variants import possible

    return {
        (str(model), one.settings.get("model_revision"), bool(one.settings.get("trust_remote_code")))
        for one in variants.values()
        for model in possible(one).get("model_name_or_path", ())
    }


@contextmanager
def said_if_long(what: str) -> Iterator[None]:
    """Inside, say on standard error what is done once it has taken two seconds, and now and then for how long."""
    over, began = Event(), time.monotonic()

    def say() -> None:
        wait = _SILENT_SECONDS
        while not over.wait(wait):
            typer.echo(f"{what} ({time.monotonic() - began:.0f} s)", err=True)
            wait = _AGAIN_SECONDS

    teller = Thread(target=say, name="wait", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


_SILENT_SECONDS, _AGAIN_SECONDS = 2.0, 15.0


_MOST_DATA = 4  # as scenarios have them, that are looked at before a sweep


_MOST_MODELS = 3  # whose tokenizers are asked before a sweep


def bad_rows_line(read: int, dropped: Counter[str]) -> str:
    """How many bad rows are left out, by kind; empty where there are none."""
    from trainers.data.rows import counted

    return f"{dropped.total():,} bad rows of {read:,} are left out ({counted(dropped)})." if dropped else ""


def refuse_bad_base(study: Study) -> None:
    """Exit with 2 where a base cannot be trained with, as far as its small files tell, before any store is made."""
    from sweeper.executors.process.devices import gpu_gib
    from trainers.components.base_memory import card_problem
    from trainers.models.bases import base_problems

    problems = [problem for settings in _bases(study) for problem in base_problems(settings)]
    card = gpu_gib(os.environ) if not problems else None
    if card is not None:
        judge = _reward_model(study)
        problems = [told for settings in _bases(study) if (told := card_problem(settings, judge, card)) is not None]
    if problems:
        refuse(list(dict.fromkeys(problems)))


def base_notes(study: Study) -> list[str]:
    """What becomes of bases that are adapters, what the GPU's memory is taken by, and in which unit gold is."""
    from studies.design.counts import pairs_source
    from studies.records.world_units import CUT, WHOLE_ANSWER
    from sweeper.executors.process.devices import gpu_gib
    from trainers.components.base_memory import plan_memory
    from trainers.models.bases import base_notices

    notes = [note for settings in _bases(study) for note in base_notices(settings)]
    card, evaluation = gpu_gib(os.environ), study.spec.evaluation
    judge = _reward_model(study)
    if pairs_source(study.spec) == CUT:
        notes.append(
            f"evaluate.max_new_tokens: {evaluation.max_new_tokens} cuts answers of the embedded world, which have up "
            f"to {WHOLE_ANSWER} tokens: gold is told in its own unit, not as a share of what is possible"
        )
    if card is not None:
        for settings in _bases(study):
            tokens = int(settings.get("max_length") or study.spec.data.max_length or 1024)
            plan = plan_memory(settings, judge, tokens, evaluation.max_new_tokens, card)
            notes += [] if plan is None else [f"memory, {settings['model_name_or_path']}: {plan}"]
    return list(dict.fromkeys(notes))


def _reward_model(study: Study) -> str | None:
    judge = study.spec.evaluation.judge
    return None if judge is None else judge.reward_model


def _bases(study: Study) -> list[Mapping[str, Any]]:
    """The settings of every base that runs may start from."""
    from studies.schema.variants import possible

    if study.spec.trainer != "dpo":
        return []
    return [
        {**arm.settings, "model_name_or_path": model}
        for arm in study.variants.values()
        for model in possible(arm).get("model_name_or_path", (None,))
        if model is not None
    ]


def warn_of_code(spec: StudySpec) -> None:
    """Name the code from elsewhere that the study lets in, and what of the environment it gets, on standard error."""
    from studies.spec import foreign_code
    from sweeper.cli.display import shown

    for warning in foreign_code(spec):
        typer.echo(f"warning: {shown(warning)}", err=True)
    if spec.resources.env:
        typer.echo(f"warning: resources.env hands {', '.join(spec.resources.env)} to what trains and judges.", err=True)
