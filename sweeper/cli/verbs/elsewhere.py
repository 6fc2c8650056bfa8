"""`sweeper evaluate STUDY --adapter FOLDER` and `--model FOLDER`: a model from elsewhere beside a study's losses."""

from __future__ import annotations

import typer

from sweeper.cli.output import quiet_libraries
from sweeper.cli.refusal import refuse
from sweeper.cli.shared import RunRequest, store_errors


def elsewhere_problems(adapter: str | None, model: str | None, *, only_best: bool) -> list[str]:
    """What is wrong with the options that name a model from elsewhere."""
    from studies.loading.plain_text import text_problem

    problems = ["--adapter and --model: one command measures one of the two."] if adapter and model else []
    problems += ["--only-best: is about the study's runs: leave it out beside --adapter or --model."] * (
        only_best and (adapter or model) is not None
    )
    named = {"--adapter": adapter, "--model": model}
    problems += [f"{name}: is empty: name a folder." for name, path in named.items() if path == ""]
    return problems + [
        f"{name} {path!r}: {wrong}." for name, path in named.items() if (wrong := text_problem(path or ""))
    ]


def measure_elsewhere(wanted: RunRequest, path: str, *, is_adapter: bool) -> None:
    """Measure a model from elsewhere on the draws that judge the study; exits with 2 where that is refused, with 1
    where something is left to do.
    """
    from sweeper.cli.display import shown
    from sweeper.folder.control import AlreadyRunning
    from sweeper.loop.progress import Interrupted
    from sweeper.measuring.elsewhere import look, measure_all, summary
    from sweeper.measuring.rescore import EvaluateError
    from sweeper.recorded.contents import as_found, is_as_recorded, with_judge
    from sweeper.recorded.reading import found_answers

    where = wanted.where
    quiet_libraries()
    with store_errors(""):
        study = with_judge(as_found(wanted.asked, typer.echo, reach=False), typer.echo)
        try:
            runs, as_run = found_answers(study).records, is_as_recorded(study)
            found = look(study, runs, path, where, is_adapter=is_adapter, is_as_run=as_run)
            done = measure_all(
                study, found, where, wanted.executor, wanted.workers, lambda line: typer.echo(shown(line))
            )
        except (EvaluateError, AlreadyRunning) as error:
            refuse([str(error)])
        except (Interrupted, KeyboardInterrupt) as error:
            typer.echo(
                f"error: {str(error) or 'stopped'}. What is measured is kept; the same command goes on.", err=True
            )
            raise typer.Exit(1) from None
    if done.is_refused:
        refuse(dict.fromkeys(done.failed.values()))
    for sentence in summary(found, done):
        typer.echo(shown(sentence))
    if done.failed:
        raise typer.Exit(1)
