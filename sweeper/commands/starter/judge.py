"""The judge that somebody names on the command line, for a study that is designed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from studies.records import EMBEDDED
from sweeper.commands.starter.design import Design

_MOST_PROMPTS = 256  # of an evaluation: each prompt is a coin of its own in a win rate


@dataclass(frozen=True)
class NamedJudge:
    """A reward model (Hub id or folder), or a function of the user's own as module:name, or neither."""

    model: str | None = None
    function: str | None = None

    @property
    def options(self) -> Mapping[str, str]:
        """The options of the command that name it."""
        given = {"--judge-model": self.model, "--judge-function": self.function}
        return {option: value for option, value in given.items() if value is not None}

    @property
    def text(self) -> str | None:
        """It as a study file says it; None where nobody is named."""
        given = {"reward_model": self.model, "function": self.function}
        named = [f"{key}: {json.dumps(value)}" for key, value in given.items() if value is not None]
        return f"{{{', '.join(named)}}}" if named else None

    def problems(self, data: str) -> list[str]:
        """What is wrong with naming it."""
        problems = ["--judge-model and --judge-function: one judge decides: give one."] * (len(self.options) > 1)
        if self.function is not None and not all(self.function.rpartition(":")[::2]):
            problems.append(f"--judge-function {self.function}: must be module:name, as my_judge:score.")
        if self.options and data == EMBEDDED:
            problems.append("--judge-model, --judge-function: the embedded data have a true reward: leave them out.")
        return problems

    def within(self, design: Design) -> Design:
        """The design with this judge, who is shown more samples."""
        if self.text is None:
            return design
        prompts = min(_MOST_PROMPTS, design.held_out_prompts or design.prompts)
        return replace(design, judge=self.text, prompts=max(design.prompts, prompts))


NOBODY = NamedJudge()
