"""What a line of the journal may hold (see `outbox.py`): a file in a run folder, which anybody may have written.

Knows no MLflow.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, StrictStr, TypeAdapter, ValidationError

TICKET_PREFIX: Final = "waiting-"  # of what a run is called until MLflow has given it an id

_Run = Annotated[StrictStr, Field(pattern=rf"^({TICKET_PREFIX})?[0-9a-zA-Z]{{1,64}}$")]
_Key = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{12}$")]
_Value = tuple[StrictStr, FiniteFloat, int]
_Texts = dict[StrictStr, StrictStr]


def _beside_others(name: str) -> str:
    """An artifact's path, which must not lead out of its run."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ValueError("no path of an artifact")
    return name


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True)

    run: _Run
    time: int


class _Start(_Line):
    do: Literal["start"]
    name: StrictStr
    tags: _Texts
    params: _Texts
    config: StrictStr


class _Curve(_Line):
    do: Literal["curve"]
    curve: list[_Value]


class _Finish(_Line):
    do: Literal["finish"]
    curve: list[_Value]
    measured: list[_Value]
    tags: _Texts
    dataset: _Texts | None
    samples: list[dict[StrictStr, Any]] = []  # a journal of an earlier version has none
    status: Literal["FINISHED", "FAILED", "KILLED"]


class _Adopt(_Line):
    do: Literal["adopt"]
    tags: _Texts


class _Supersede(_Line):
    do: Literal["supersede"]
    reason: StrictStr


class _Files(_Line):
    do: Literal["files"]
    files: dict[Annotated[StrictStr, AfterValidator(_beside_others)], StrictStr]


class _Adapter(_Line):
    do: Literal["adapter"]
    key: _Key


class _Samples(_Line):
    do: Literal["samples"]
    key: _Key


class _Close(_Line):
    do: Literal["close"]
    status: Literal["FINISHED", "KILLED"]


_LINE: Final[TypeAdapter[Any]] = TypeAdapter(
    Annotated[
        _Start | _Curve | _Finish | _Adopt | _Supersede | _Files | _Adapter | _Samples | _Close,
        Field(discriminator="do"),
    ]
)


def checked(entry: Any) -> dict[str, Any] | None:
    """A line as it may be delivered, without what is none of ours; None for one that no sweep has written."""
    if isinstance(entry, dict) and entry.get("do") == "adapter" and isinstance(entry.get("folder"), str):
        # Of an earlier version, which wrote the path of the adapter in the folder of its run.
        entry = {**entry, "key": PurePosixPath(entry["folder"]).parent.name}
    try:
        found: dict[str, Any] = _LINE.validate_python(entry).model_dump()
    except (ValidationError, RecursionError):
        return None
    return found
