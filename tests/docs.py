"""Parts of the rooms' READMEs that the code knows better: `python -m tests.docs` writes them anew between their marks.

A part begins with `<!-- made by tests.docs: NAME -->` and ends with `<!-- end of NAME -->`; `tests/test_readme.py`
fails where one is not what the code says.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.main import get_command

import sweeper
from studies.design.counts import planned_runs
from studies.losses.guide import CLAIMS
from studies.losses.table import TABLE
from studies.records import CONSEQUENCES, METRICS, Cause, Check, DataConfig, EvaluationConfig, Failure, Judge
from studies.schema.types import NOT_WRITTEN, StudySpec
from studies.spec import (
    Budget,
    Confirm,
    Expectation,
    FloatRange,
    IntRange,
    Notify,
    Objective,
    Output,
    Probe,
    Resources,
    Rungs,
    Runs,
    Scenario,
    Simplex,
    SlurmJobs,
    Study,
    Values,
    Variant,
    load_study,
    shipped_studies,
)
from sweeper.cli.app import app
from sweeper.documents.registry import DOCUMENTS

ROOT = Path(__file__).parents[1]

PARTS: Mapping[str, type[BaseModel]] = {
    "the whole file": StudySpec,
    "data": DataConfig,
    "variants.NAME": Variant,
    "variants.NAME.expect": Expectation,
    "space.SETTING": FloatRange,
    "space.SETTING of whole numbers": IntRange,
    "space.SETTING of listed values": Values,
    "space.loss_weights": Simplex,
    "scenarios.NAME": Scenario,
    "runs": Runs,
    "confirm": Confirm,
    "rungs": Rungs,
    "probe": Probe,
    "evaluate": EvaluationConfig,
    "evaluate.judge": Judge,
    "evaluate.check": Check,
    "objective": Objective,
    "budget": Budget,
    "resources": Resources,
    "resources.slurm": SlurmJobs,
    "output": Output,
    "notify": Notify,
}
_WRITTEN = {"evaluation": "evaluate"}
_VALUE = {float, int, str, bool, type(None)}
_FOR_DEVELOPERS = re.compile(
    r" ?\(see `studies[^)]*\)| ?Not written by the user:.*|A default here .*| ?Defaults stay, .*"
)
_NONE = re.compile(r"\bNone\b")
_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", Any: "any"}


def study_keys() -> Iterator[str]:
    """Every key of a study file, with what its type says of it."""
    for place, part in PARTS.items():
        yield f"### {place}\n"
        yield from (f"{paragraph}\n" for paragraph in _paragraphs(part))
        fields = [(name, field) for name, field in part.model_fields.items() if name not in NOT_WRITTEN]
        rows = [(f"`{_WRITTEN.get(name, name)}`", _given(field), _default(field)) for name, field in fields]
        yield from _table(("key", "takes", "without it"), rows)
        yield ""


def losses() -> Iterator[str]:
    """TRL's losses, the settings that act on each, and what beta is there."""
    rows = [(f"`{loss.name}`", loss.title, loss.view, ", ".join(loss.knobs), loss.beta) for loss in TABLE]
    return _table(("loss", "known as", "sees", "settings that act", "beta"), rows)


def studies() -> Iterator[str]:
    """The studies that come with the project, and what each asks."""
    rows = []
    for name, path in shipped_studies().items():
        spec = load_study(name)
        runs = planned_runs(Study.of(spec))
        rows.append((f"[`{name}`]({path.relative_to(ROOT / 'studies')})", spec.question, str(runs)))
    return _table(("study", "asks", "runs"), rows)


def claims() -> Iterator[str]:
    """What the guide claims of the losses, and which study puts it to the test."""
    asked = {claim: name for name in shipped_studies() for claim in load_study(name).claims}
    rows = [
        (
            f"{claim.loss}: {claim.column}",
            claim.words,
            claim.means,
            f"`{asked[claim.id]}`" if claim.id in asked else claim.reason or "-",
        )
        for claim in CLAIMS
    ]
    return _table(("claim", "the guide's words", "put to the test", "by study"), rows)


def measurements() -> Iterator[str]:
    """What is measured of a run, and what TRL logs."""
    ordered = sorted(METRICS.items(), key=lambda one: not one[1].comparable)
    rows = [
        (f"`{name}`", metric.what, metric.unit, metric.better or "-", "yes" if metric.comparable else "no")
        for name, metric in ordered
    ]
    return _table(("name", "what", "unit", "better", "compares across losses"), rows)


def causes() -> Iterator[str]:
    """Why runs end, and what follows from it."""
    said = _said_below(Cause)
    rows = []
    for cause, follows in CONSEQUENCES.items():
        again = "smaller" if follows.smaller else "yes" if follows.retried else "no"
        if follows.failure is None:
            counts = "not failed"
        else:
            counts = "failed" if follows.failure.by_config else "could not be trained"
        rows.append((f"`{cause}`", said[cause.name], again, counts, follows.told.value))
    also = Failure.DRIFTED.value
    yield from _table(("cause", "what happened", "tried again", "counts as", "told to Optuna"), rows)
    yield f"\nA finished run whose samples are half or twice as long as the original model's has failed too: `{also}`."


def commands() -> Iterator[str]:
    """Every command with its options; those of several commands once."""
    found: Mapping[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    told: dict[str, set[str]] = {}
    for command in found.values():
        for line in _options(command):
            told.setdefault(line, set()).add(command.name or "")
    shared = [line for line, who in told.items() if len(who) > 1]
    for name, command in found.items():
        words = "".join(f" {p.metavar or p.name.upper()}" for p in command.params if _is_argument(p))
        own = [line for line in _options(command) if line not in shared]
        also = [line.split("`")[1].split()[0] for line in _options(command) if line in shared]
        more = f" Also {', '.join(f'`{option}`' for option in also)}." if also else ""
        yield f"- `sweeper {name}{words}`: {_one_line(command.help or '')}{more}"
        yield from (f"  - {line}" for line in own)
    yield "\nOptions of several commands:\n"
    yield from (f"- {line}" for line in shared)


def documents() -> Iterator[str]:
    """Every object that a command prints with `--json`, by its schema; types that several have once, at the end."""
    later: dict[str, type] = {}
    for schema, kind in DOCUMENTS.items():
        yield f"### {schema}\n"
        yield from _of_type(kind, later)
    yield "### event/1\n"
    yield "A line of [events.jsonl](README.md#watch-and-steer) with `schema` before it.\n"
    told: set[str] = set()
    while rest := [name for name in later if name not in told]:
        for name in rest:
            yield f"### {name}\n"
            yield from _of_type(later[name], later)
            told.add(name)


def _of_type(kind: type, later: dict[str, type]) -> Iterator[str]:
    """A type's docstring and its fields; the types in it are put into `later`."""
    yield from (_NONE.sub("null", paragraph) + "\n" for paragraph in _paragraphs(kind))
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    yield from _table(("field", "holds"), [(f"`{name}`", _holds(hints[name], later)) for name in names])
    yield ""


def _holds(kind: Any, later: dict[str, type]) -> str:
    """A type of a field in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if origin is typing.Annotated:
        return _holds(inner[0], later)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        return "a value" if set(inner) >= _VALUE - {type(None)} else " or ".join(_holds(one, later) for one in inner)
    if origin is tuple:
        same = inner[-1] is Ellipsis
        return f"list of: {_holds(inner[0], later)}" if same else f"[{', '.join(_holds(one, later) for one in inner)}]"
    if origin is not None:
        return f"name: {_holds(inner[1], later)}"
    if issubclass(kind, enum.Enum):
        return ", ".join(f"`{one.value}`" for one in kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        name = kind.__name__
        if later.setdefault(name, kind) is not kind:  # two modules may have a type of one name
            name = f"{name} of {kind.__module__.rpartition('.')[2]}"
            later[name] = typing.cast(type, kind)
        return f"[{name}](#{name.lower().replace(' ', '-')})"
    return "a range or list, [as in a study file](../studies/README.md)"


def api() -> Iterator[str]:
    """Every public name of Python, with what its docstring says."""
    for name in sweeper.__all__:
        found = getattr(sweeper, name)
        if not inspect.isclass(found):
            yield f"- `{_call(name, found)}`: {_first_paragraphs(found)}"
            continue
        yield f"- `{name}`: {_first_paragraphs(found)}"
        for member, one in vars(found).items():
            if member.startswith("_"):
                continue
            if inspect.isfunction(one):
                yield f"  - `.{_call(member, one)}`: {_first_paragraphs(one)}"
            elif isinstance(one, property):
                yield f"  - `.{member}`: {_first_paragraphs(one)}"


def _call(name: str, function: Any) -> str:
    """How a function is called."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    words: list[str] = []
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        words.append(p.name if p.default is p.empty else f"{p.name}={p.default!r}")
    return f"{name}({', '.join(words)})"


def _first_paragraphs(found: Any) -> str:
    """Its docstring up to the examples, in one line."""
    return _one_line((inspect.getdoc(found) or "").partition(">>>")[0])


MADE: Mapping[str, tuple[str, Callable[[], Iterator[str]]]] = {
    "study keys": ("studies/README.md", study_keys),
    "losses": ("studies/README.md", losses),
    "studies": ("studies/README.md", studies),
    "claims": ("studies/README.md", claims),
    "measurements": ("trainers/README.md", measurements),
    "causes": ("sweeper/README.md", causes),
    "commands": ("sweeper/README.md", commands),
    "documents": ("sweeper/json.md", documents),
    "api": ("sweeper/api/README.md", api),
}


def renewed(text: str, name: str, lines: Iterator[str]) -> str:
    """The text with one part made anew. Raises ValueError where it has no such part."""
    begin, end = f"<!-- made by tests.docs: {name} -->\n", f"<!-- end of {name} -->"
    before, mark, rest = text.partition(begin)
    _, other, after = rest.partition(end)
    if not mark or not other:
        raise ValueError(f"there are no lines {begin.strip()} and {end}")
    made = "\n".join(lines).strip("\n")
    return f"{before}{begin}\n{made}\n\n{end}{after}"


def as_the_code_says() -> dict[str, str]:
    """File -> its text with every part made anew."""
    texts = {file: (ROOT / file).read_text(encoding="utf-8") for file, _ in MADE.values()}
    for name, (file, make) in MADE.items():
        texts[file] = renewed(texts[file], name, make())
    return texts


def main() -> None:
    """Write all parts anew."""
    for file, text in as_the_code_says().items():
        (ROOT / file).write_text(text, encoding="utf-8")


# ---- words ----------------------------------------------------------------------------------------------------------


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _paragraphs(part: type) -> list[str]:
    """The paragraphs of its docstring, a line each, without what only matters to who changes the type."""
    found = [_FOR_DEVELOPERS.sub("", _one_line(text)) for text in (inspect.getdoc(part) or "").split("\n\n")]
    return [text.replace("(None:", "(without it:") for text in found if text]


def _takes(kind: Any) -> str:
    """A type in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if origin is typing.Annotated:
        return _takes(inner[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        if set(inner) == _VALUE:
            return "a value"
        return " or ".join(dict.fromkeys(_takes(one) for one in inner))
    if origin is tuple:
        return f"list of: {_takes(inner[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return f"name: {_takes(inner[1])}"
    place = next(place for place, part in PARTS.items() if part is kind)
    place = "space.SETTING" if place.startswith("space") else place
    return f"see [{place}](#{place.replace('.', '').lower()})"


def _given(field: FieldInfo) -> str:
    """What a key takes; null only where leaving the key out is something else."""
    takes = _takes(field.annotation)
    return takes.removesuffix(" or null") if field.default is None else takes


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**must be given**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "as its keys"
    if isinstance(value, Mapping):
        return f"`{', '.join(map(str, value))}`" if value else "none"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`" if value else "none"
    if value is None or value == "":
        return "none"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _said_below(kind: type) -> dict[str, str]:
    """The sentence below each member of a class."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    said = {}
    for named, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(named, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            said[ast.unparse(named.targets[0])] = str(text.value.value)
    return said


def _is_argument(parameter: Any) -> bool:
    return parameter.param_type_name == "argument"


def _options(command: Any) -> list[str]:
    found = []
    for option in command.params:
        if _is_argument(option) or option.hidden or "--help" in option.opts:
            continue
        value = "" if option.is_flag else f" {option.metavar or option.opts[0].strip('-').upper()}"
        default = "" if option.is_flag or option.default in (None, []) else f" (default: {option.default})"
        found.append(f"`{option.opts[0]}{value}`: {_one_line(option.help or '')}{default}")
    return found


if __name__ == "__main__":
    main()
