"""The rounds of a sweep: what it began with, then what was asked for while it trained."""

from __future__ import annotations

import time
from dataclasses import replace

from studies.design.identity import questions
from studies.schema.replicates import as_in_file
from studies.spec import Study
from studies.text.plural import so_many
from sweeper.commands.retry import ask_again
from sweeper.commands.session.session import Session
from sweeper.executors import ELSEWHERE, Executor
from sweeper.folder.steering.rounds import Round
from sweeper.loop.progress import Outcome, Progress, Screen
from sweeper.loop.sweep import Stores, Sweep
from sweeper.planning.placement import Packs
from sweeper.recorded.known import find_known
from sweeper.search.patience.waiting import Patience
from sweeper.search.search import Search


class RoundsTrained:
    """Trains a study and then, with the same workers, the rounds that were requested while it trained."""

    def __init__(self, session: Session, pool: Executor) -> None:
        self._pool, self._began = pool, time.monotonic()
        self._stopped = self._closing = self.partial = False
        self._open(session)

    def _open(self, session: Session) -> None:
        """Prepare to train the session's study."""
        study, runs, screen = session.study, session.where.runs, session.screen
        stores, workers = Stores(session.search, session.tracker), len(self._pool.capacity.workers)

        def show(progress: Progress) -> None:
            rounds = session.border.rounds
            session.search.partial |= rounds.asked  # nothing is confirmed before the last round
            if rounds.changes and not self.sweep.closing:
                self.sweep.finish_up()  # what is left is asked for again, of the next version
            screen.show(progress)

        self._session = session
        elsewhere = session.executor in ELSEWHERE
        self.packs = Packs(study, runs, session.workers, workers, screen.tell_user, elsewhere=elsewhere)
        own = (runs, self.packs, Screen(show, screen.tell_user), self._began)
        self.sweep = Sweep(study, stores, session.past(session.known), self._pool, *own)

    def stop(self) -> None:
        """Stop at the next step of each run in training."""
        self._stopped = True
        self.sweep.stop()

    def finish_up(self) -> None:
        """Start nothing new."""
        self._closing = True
        self.sweep.finish_up()

    def run(self) -> Outcome:
        """Train all rounds. `reused` of the outcome is that of the first one."""
        outcome, rounds = self.sweep.run(), self._session.border.rounds
        while (more := rounds.take(last=(over := self._is_over(outcome)))) != Round():
            if over or self._session.tracker.undelivered:
                rounds.take(last=True)
                self._session.screen.tell_user(
                    "What was asked for while the sweep ran is not trained: it was stopped, or MLflow is away. Ask for "
                    "it again with `sweeper retry`, or change the study file and run it again."
                )
                break
            again = self._again(more)
            stopped = again.stopped or (outcome.stopped and not more.extends)  # what is paused has runs left
            outcome = replace(again, trained=outcome.trained + again.trained, reused=outcome.reused, stopped=stopped)
        self.partial = self._session.search.partial
        return outcome

    @property
    def study(self) -> Study:
        """The study as it was trained last."""
        return self._session.study

    def _is_over(self, outcome: Outcome) -> bool:
        """Whether nothing more is trained. The next version may have a larger budget, and ends no stop."""
        if not self._session.border.rounds.changes:
            return self.sweep.closing
        return self._stopped or self._closing or bool(outcome.unusable) or not self._pool.capacity.workers

    def _again(self, more: Round) -> Outcome:
        """Train another round on what is recorded by now."""
        session, study = self._session, more.of(self._session.study)
        where, tracker, tell_user = session.where, session.tracker, session.screen.tell_user
        if more.replicates is not None or more.version is not None:  # whose runs answer questions of their own
            text = as_in_file(study.spec).model_dump_json(indent=2, exclude_defaults=True)
            tracker.open_study(study.spec, text, questions(study), strict=tracker.strict)
        known = find_known(study, where.storage, tracker, session.compare, tell_user)
        patience = Patience(tell_user, session.lease.renew)
        search = Search(study.spec, study.variants, where.storage, known.records, known.changed, patience)
        try:
            asked = ask_again(search, tracker, known.records, where.runs, more.causes) if more.causes else 0
            runs = [f"{so_many(asked, 'run')} again"] if more.causes else []
            runs += ["what the next version of the study asks for"] if more.version is not None else []
            runs += [f"up to {so_many(more.trials, 'trial')} of each variant"] if more.trials is not None else []
            runs += [f"up to {so_many(more.replicates, 'replicate')}"] if more.replicates is not None else []
            tell_user(f"Training {' and '.join(runs)}, as was asked.")
            session.border.phase("train")
            self._open(replace(session, study=study, search=search, known=known))
            if self._stopped:  # asked for between the rounds
                self.sweep.stop()
            if self._closing:
                self.sweep.finish_up()
            return self.sweep.run()
        finally:
            search.close()
