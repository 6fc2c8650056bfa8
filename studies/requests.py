"""What is asked of a sweep that runs, and its JSON: what a page or a terminal asks, and the sweep reads.

    {"v": 1, "ask": "stop", "now": false, "sweep": "9f2c41d07ab3"}

- `ask`: `stop` (`now`: at the next step of each run, else when the runs in training have ended), `pause` and `resume`
  (`variant`), `retry` (`causes`, as `sweeper retry --cause` takes them; none: all that failed), `extend` (`trials`:
  what `budget.trials` is from now on, or `replicates`), `take` (`file`: the next version of the study file, as a whole
  path). `retry` and `extend` are carried out once all other runs have ended, `take` once those in training have.
- `sweep`: the sweep that is asked, as its events name it; without it whichever runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from studies.records import Cause, Failure

VERSION: Final = 1
MOST_TRIALS: Final = 100_000
MOST_REPLICATES: Final = 1000

# What `sweeper retry` means where nothing is named, and what may be named: also how MLflow calls a cause, and runs that
# were stopped and do not go on by themselves.
FAILED: Final = frozenset(str(failure) for failure in Failure)
NAMED: Final = FAILED | {str(cause) for cause in Cause} - {Cause.FINISHED, Cause.USER_STOP}


@dataclass(frozen=True)
class Stop:
    """End the sweep: `now` at the next step of each run, else when the runs in training have ended."""

    now: bool = False


@dataclass(frozen=True)
class Pause:
    """Train no more runs of a variant, in this and later sweeps, until it is resumed."""

    variant: str


@dataclass(frozen=True)
class Resume:
    """Train runs of a paused variant again."""

    variant: str


@dataclass(frozen=True)
class Retry:
    """Train the runs again that ended for one of these causes; none named: all that failed."""

    causes: tuple[Annotated[str, Field(max_length=64)], ...] = ()


@dataclass(frozen=True)
class Extend:
    """Train so many trials of each stratum, as if the study's `budget.trials` were that, or so many `replicates`."""

    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    replicates: Annotated[int, Field(ge=1, le=MOST_REPLICATES)] | None = None


@dataclass(frozen=True)
class Take:
    """Go on with the study as its file says it now: with more variants, scenarios, trials or replicates, or another
    budget.
    """

    file: Annotated[str, Field(min_length=1, max_length=4096)]


Request = Stop | Pause | Resume | Retry | Extend | Take
ASKS: Final[Mapping[str, type[Any]]] = {
    "stop": Stop,
    "pause": Pause,
    "resume": Resume,
    "retry": Retry,
    "extend": Extend,
    "take": Take,
}
_NAMES: Final = {kind: name for name, kind in ASKS.items()}


class NoRequest(Exception):
    """Why something is no request."""


def name_of(request: Request) -> str:
    """What a request is called, as `stop`."""
    return _NAMES[type(request)]


def in_json(request: Request, sweep: str) -> dict[str, Any]:
    """A request to a sweep as its JSON says it."""
    return {"v": VERSION, "ask": name_of(request), "sweep": sweep, **asdict(request)}


def from_json(found: Any) -> tuple[Request, str]:
    """A request and the sweep that is asked, "" where that is whichever runs. Raises NoRequest."""
    if not isinstance(found, dict) or found.get("v") != VERSION:
        raise NoRequest(f"it is no request of version {VERSION}")
    ask, sweep = str(found.get("ask")), found.get("sweep") or ""
    if ask not in ASKS:
        raise NoRequest(f"`ask` is none of {', '.join(ASKS)}")
    try:
        request: Request = _reader(ask).validate_python(
            {name: value for name, value in found.items() if name in ASKS[ask].__dataclass_fields__}
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        raise NoRequest(f"`{'.'.join(map(str, wrong['loc']))}`: {wrong['msg']}") from None
    return request, sweep if isinstance(sweep, str) else "?"


@lru_cache
def _reader(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(ASKS[name])
