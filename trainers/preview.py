"""Renders some rows with a model's tokenizer before anything is trained, in a process that loads no torch.

What every run would be refused for is told so, and how many rows fall out. Runs no code that lies with a model, asks
no network, and ends after a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from itertools import chain
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from studies.records import DataConfig
from studies.records.funnel import funnel
from studies.schema.paths import existing
from studies.text.lines import first_line_of
from trainers.data.draws import ALIKE, NO_PROMPT, REFUSED, TOO_LONG, UNTOLD, why_not
from trainers.data.pairs import DataError, limits_of, load_pairs
from trainers.data.rows import Row, counted, length
from trainers.data.sources import Rows
from trainers.data.tokens import prompt_ids
from trainers.world.paths import embedded_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS, _CHARACTERS = 300, 1_500_000
"""As many are looked at, from all over the data."""
_WHOLE_ROWS, _WHOLE_CHARACTERS = 3000, 4_000_000
"""Data of no more than this are drawn as the first block draws them, so that every number is told."""
_SECONDS: Final = 60.0


class Preview(NamedTuple):
    """What stands against training (`problems`), what a user should know (`notes`), and how many prompts a draw holds
    (`prompts`), where that is known.
    """

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    prompts: int | None = None


def preview(rows: Rows, data: DataConfig, model: str, revision: str | None, code: bool, block: int) -> Preview:
    """Of the rows of local data with the tokenizer of `model`; `code`: whether it may run code that lies with it."""
    if code:
        return Preview(notes=(f"{_UNSEEN} {model} has code of its own, which only a run executes.",))
    every = [*zip(rows.train_places, rows.train, strict=True)]
    every += [*zip(rows.evaluation_places, rows.evaluation or (), strict=True)]
    request = {
        "data": data.model_dump(mode="json"),
        "model": model_place(model),
        "revision": revision,
        "block": block,
        "read": len(every),
        "rows": list(spread(every)),
        "whole": len(every) <= _WHOLE_ROWS and sum(map(_characters, every)) <= _WHOLE_CHARACTERS,
    }
    try:
        problems, notes, prompts = asked_aside("trainers.preview", request)
    except subprocess.TimeoutExpired:
        return Preview(notes=(f"{_UNSEEN} that took over {_SECONDS:.0f} s.",))
    except (subprocess.CalledProcessError, OSError, ValueError):
        return Preview(notes=(f"{_UNSEEN} the tokenizer of {model} cannot be loaded without torch.",))
    return Preview(tuple(problems), tuple(notes), prompts)


_UNSEEN: Final = "The rows were not tokenised yet:"


def model_place(model: str) -> str:
    """Where a model lies, as its loader takes it."""
    return str(embedded_path(model) or existing(model) or model)


def asked_aside(module: str, request: Mapping[str, Any]) -> Any:
    """The answer of a module, run in a process of its own, to a request on its standard input; both are JSON. Raises
    TimeoutExpired, CalledProcessError, OSError and ValueError.
    """
    modules = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": modules, "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", module],
        input=json.dumps(request).encode(),
        capture_output=True,
        timeout=_SECONDS,
        env=environment,
        check=True,
    )
    return json.loads(done.stdout)


def spread(every: Sequence[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
    """Some of the rows, drawn, as rows may alternate, and in their order; as far as they are not too long together."""
    characters = 0
    for i in sorted(Random(0).sample(range(len(every)), min(len(every), _ROWS))):
        placed = every[i]
        characters += _characters(placed)
        if characters > _CHARACTERS:
            break
        yield placed


def _characters(placed: tuple[str, Row]) -> int:
    return sum(length(text) for text in placed[1].values())


# ---- in the process of its own ---------------------------------------------------------------------------------------


def main() -> None:
    """Answer the request on standard input: problems and notes, as JSON."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    request = json.load(sys.stdin)
    with redirect_stdout(sys.stderr):
        found = _answer(request)
    json.dump(found, sys.stdout)


def _answer(request: Mapping[str, Any]) -> tuple[list[str], list[str], int | None]:
    from trainers.models.tokenizer import UnusableModel, load_tokenizer

    data, model = DataConfig.model_validate(request["data"]), request["model"]
    try:
        tokenizer = load_tokenizer(model, request["revision"], trust_remote_code=False)
    except UnusableModel as error:
        return [str(error)], [], None
    except (OSError, ValueError, ImportError, KeyError) as error:
        why = (
            f"{model} is not here, and is loaded by the first run" if existing(model) is None else first_line_of(error)
        )
        return [], [f"{_UNSEEN} {why}."], None
    if not request["rows"]:
        return [], [f"{_UNSEEN} one of them has over {_CHARACTERS:,} characters."], None
    problems, notes, odd = _rendered(request["rows"], data, tokenizer)
    problems += [] if problems else _without_a_row(request, tokenizer)
    if request["whole"] and not problems:
        try:
            pairs = load_pairs(data, request["block"], tokenizer)
        except DataError as error:
            return list(error.problems), [], None
        drawn = f"Pairs of data draw {request['block']}: {funnel(pairs.facts)}."
        return problems, [drawn, *odd], len(pairs.prompts)
    return problems, [*notes, *odd], None


def _rendered(
    placed: Sequence[tuple[str, Row]], data: DataConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[str], list[str], list[str]]:
    """What the tokenizer and its template make of rows: what refuses them, how many fall out, and what is odd."""
    out, odd = Counter[str](), Counter[str]()
    first: tuple[str, str] | None = None
    keep, drop = (data.model_copy(update={"bad_rows": how}) for how in ("refuse", "drop"))
    refused = 0
    for place, row in placed:
        try:
            reason = why_not(row, keep, tokenizer)
        except DataError as error:
            if not tokenizer.chat_template and isinstance(row["prompt"], list):
                return list(error.problems), [], []  # not a matter of this row
            reason = why_not(row, drop, tokenizer)
            refused += 1
            first = first or (place, error.problems[0])
        out.update([reason] if reason else [])
        odd.update(() if reason in (REFUSED, NO_PROMPT) else _oddities(row, tokenizer))
    surprises = [_UNTEMPLATED] if _is_untemplated(placed, tokenizer) else []
    surprises += [f"In {count:,} of {len(placed):,} rows looked at {what}." for what, count in odd.most_common()]
    return _told(placed, data, out, refused, first), _noted(placed, data, out), surprises


_UNTEMPLATED: Final = (
    "The rows are plain text, so that the model's chat template is not used, nor would TRL use it: where the model is "
    "for chats, write prompt and answers as messages."
)


def _is_untemplated(placed: Sequence[tuple[str, Row]], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether rows are plain text, and none has a token that templates write, where the model has one."""
    prompts = [row["prompt"] for _, row in placed]
    written = [name for name in tokenizer.get_added_vocab() if len(name) > 1]
    return bool(tokenizer.chat_template) and not any(
        isinstance(prompt, list) or any(name in prompt for name in written) for prompt in prompts
    )


def _without_a_row(request: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The first id of rows to be trained on that the model's embedding has no row for, as far as its config tells."""
    from trainers.data.tokens import tokenise
    from trainers.models.tokenizer import embedding_rows, no_row

    rows = embedding_rows(request["model"], request["revision"])
    if rows is None or len(tokenizer) <= rows:
        return []
    data = DataConfig.model_validate(request["data"])
    for place, row in request["rows"]:
        with suppress(DataError):
            largest = max(chain.from_iterable(tokenise(row, tokenizer)), default=0)
            if largest >= rows and why_not(row, data, tokenizer) is None:
                return [f"{no_row(request['model'], tokenizer, largest, rows)} (it occurs in {place})"]
    return []


def _told(
    placed: Sequence[tuple[str, Row]],
    data: DataConfig,
    out: Counter[str],
    refused: int,
    first: tuple[str, str] | None,
) -> list[str]:
    looked_at = len(placed)
    problems = []
    if first is not None and (data.bad_rows == "refuse" or refused == looked_at):
        place, told = first
        of = f"{refused:,} of {looked_at:,} rows looked at"
        drop = "; or leave them out: --set data.bad_rows=drop" if refused < looked_at else ""
        problems.append(f"data {data.path}, {place}: {told} ({of}{drop})")
    for reason, remedy in _EMPTY.items():
        if out[reason] == looked_at:
            problems.append(f"data {data.path}: all {looked_at:,} rows looked at have {reason}, {remedy}")
    return problems


_EMPTY: Final[Mapping[str, str]] = {
    UNTOLD: "since the model's chat template passes over their roles: write the roles that it has (the first row says "
    "which it was given), or take a model whose template has them",
    ALIKE: "so that nothing can be learned: give answers that differ in more than the template leaves of them",
}


def _noted(placed: Sequence[tuple[str, Row]], data: DataConfig, out: Counter[str]) -> list[str]:
    looked_at = len(placed)
    fit, limits = looked_at - out.total(), limits_of(data)
    notes = [f"Of {looked_at:,} rows looked at, {fit:,} fit {limits}."] if limits else []
    others = Counter({reason: count for reason, count in out.items() if reason != TOO_LONG})
    return notes + ([f"Of {looked_at:,} rows looked at, these are left out: {counted(others)}."] if others else [])


def _oddities(row: Row, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """What a row is trained as that may surprise."""
    from trainers.data.tokens import tokenise

    alone, ids = prompt_ids(row["prompt"], tokenizer), tokenise(row, tokenizer)
    if len(ids.prompt) < len(alone):
        yield (
            "prompt and answer are tokenised otherwise together than the prompt alone, so that the answer begins "
            "earlier than written (TRL warns of it for every row, and trains the same)"
        )
    start = tokenizer.bos_token_id
    if start is not None and ids.prompt[:2] == [start, start]:
        yield (
            f"the text begins with {tokenizer.bos_token!r} twice, once written and once by the tokenizer: take it out "
            "of the data or of the chat template"
        )
    prompt = row["prompt"]
    if isinstance(prompt, list):
        yield from _changed_by_template(prompt, [row["chosen"], row["rejected"]], tokenizer)


def _changed_by_template(
    prompt: list[dict[str, Any]], answers: Sequence[Any], tokenizer: PreTrainedTokenizerBase
) -> Iterator[str]:
    """What a chat template leaves of messages, and answers that are not the assistant's."""
    lost: set[str] = set()
    for messages in (prompt, *(prompt + answer for answer in answers)):
        asks = messages is prompt
        shown = str(tokenizer.apply_chat_template(messages, add_generation_prompt=asks, tokenize=False))
        lost |= {f"a message of role {m['role']!r} says" for m in messages if m["content"].strip() not in shown}
        lost |= {"a call of a tool says" for m in messages for name in _tools(m) if name not in shown}
    for what in sorted(lost):
        yield f"the chat template leaves out or changes what {what}"
    roles = {answer[i]["role"] for answer in answers for i in (0, -1)} - {"assistant"}
    if roles:
        named_roles = " and ".join(map(repr, sorted(roles)))
        yield f"an answer begins or ends with a message of role {named_roles}, which is trained on as the assistant's"


def _tools(message: Mapping[str, Any]) -> Iterator[str]:
    """The names of the tools that a message calls."""
    for call in message.get("tool_calls") or ():
        function = call.get("function", call) if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            yield function["name"]


if __name__ == "__main__":
    main()
