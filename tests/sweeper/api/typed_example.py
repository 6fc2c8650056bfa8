"""A program that uses the API as its documentation says; `mypy --strict` finds nothing wrong with it."""

import pandas as pd

import sweeper


def best_rate(path: str) -> float | None:
    """The learning rate to use, after a sweep."""
    try:
        study: sweeper.Study = sweeper.load(path, set={"replicates": 8})
        plan: sweeper.Plan = study.plan(workers=2)
        status: sweeper.Status = study.run(on_interrupt="stop")
    except sweeper.Refused as refused:
        for problem in refused.problems:
            print(problem.upper())  # noqa: T201
        return None
    answer: sweeper.Answer = study.answer()
    table: pd.DataFrame = study.table()
    runs: pd.DataFrame = study.results()
    figure: sweeper.Figure = study.figures["ranking"]
    figure.save("ranking.svg")
    gain: float | None = None if answer.gain is None else answer.gain.value
    words = [answer.use or "", *answer.as_good, *answer.undecided, *answer.avoid]
    if plan.runs < len(table) or status.missing or not words or gain is None or runs.empty:
        return None
    best: sweeper.Best = study.best(answer.use)
    study.export("best.yaml", variant=best.variant).read_text()
    rate = best.settings["learning_rate"]
    return rate if isinstance(rate, float) else None
