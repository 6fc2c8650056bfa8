"""What makes a preference row of what a source holds, and what is wrong with it: knows no file and no tokenizer."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypedDict

from trainers.data.raw.columns import lost_columns, scored_otherwise
from trainers.data.raw.oddities import Seen

Text = str | list[dict[str, Any]]
"""A prompt or an answer: plain text, or a list of messages with `role` and `content`."""

SIDES: Final[tuple[Literal["chosen", "rejected"], ...]] = ("chosen", "rejected")
_TEXTS: Final[tuple[Literal["prompt", "chosen", "rejected"], ...]] = ("prompt", "chosen", "rejected")

Columns = Mapping[Literal["prompt", "chosen", "rejected"], str | None]
"""Other names of the texts, see `DataConfig`."""


class Row(TypedDict):
    """One preference pair in TRL's explicit-prompt form; all three are plain text or all three are messages."""

    prompt: Text
    chosen: Text
    rejected: Text


class Fault(NamedTuple):
    """Why a row is none: of which kind, in words to count by, and in full with its remedy."""

    kind: str
    text: str


def as_row(value: Any, columns: Columns) -> tuple[Row | Fault, Seen]:
    """The row that a raw one makes, its prompt explicit, or what is wrong with it. `columns`: see `DataConfig`."""
    if not isinstance(value, dict):
        return (
            Fault(
                "not an object",
                f"a row must be an object with columns, this is of type {type(value).__name__}; remove it",
            ),
            Seen(),
        )
    if None in value:  # how the csv module tells
        return (
            Fault("more cells than columns", "it has more cells than the first line; put texts with commas in quotes"),
            Seen(),
        )
    named, forms, unread = _with_messages(renamed(value, columns))
    prompted = "prompt" in named
    seen = Seen(prompted, tuple(lost_columns(named)), tuple(forms), otherwise=scored_otherwise(named))
    fault = unread or _row_fault(named)
    if fault:
        return fault, seen
    row = _explicit(named)
    odd = seen._replace(repeated=_is_repeated(row)) if prompted else seen._replace(begun=_is_begun(row))
    return _explicit_fault(row, named) or row, odd


def renamed(value: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """A raw row with its texts under their own names."""
    if not columns:
        return dict(value)
    texts = {text: columns.get(text, text) for text in _TEXTS}
    others = {name: held for name, held in value.items() if name not in _TEXTS and name not in columns.values()}
    return others | {text: value[name] for text, name in texts.items() if name is not None and name in value}


def counted(kinds: Counter[str]) -> str:
    """How many rows are bad, by kind: `2 empty, 1 equal answers`."""
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def length(text: Any) -> int:
    """Characters of a prompt or an answer."""
    return len(text) if isinstance(text, str) else sum(len(message["content"]) for message in text)


def is_conversational(row: Row) -> bool:
    """Whether the row is made of messages."""
    return isinstance(row["prompt"], list)


def in_plain_text(row: Row) -> Row:
    """The row with its messages written out: each behind its role, the answers behind `Assistant:`."""
    if not is_conversational(row):
        return row
    prompt, chosen, rejected = (_messages_of(row[text]) for text in _TEXTS)
    asked = "".join(f"{m['role'].capitalize()}: {_said(m)}\n\n" for m in prompt)
    return Row(prompt=f"{asked}Assistant:", chosen=_written_answer(chosen), rejected=_written_answer(rejected))


def _messages_of(text: Text) -> list[dict[str, Any]]:
    return text if isinstance(text, list) else []


def _written_answer(messages: list[dict[str, Any]]) -> str:
    """An answer behind `Assistant:`; where others speak in it, behind their roles."""
    first, *others = messages
    told = [f" {_said(first)}", *(f"{m['role'].capitalize()}: {_said(m)}" for m in others)]
    return "\n\n".join(told)


def _said(message: dict[str, Any]) -> str:
    """What a message says; of one that calls a tool and says nothing, the call."""
    calls = message.get("tool_calls")
    return message["content"].strip() or (json.dumps(calls, ensure_ascii=False) if calls else "")


# ---- messages in other forms ----------------------------------------------------------------------------------------

_LIKE_MESSAGES: Final = re.compile(r"""\s*\[\s*\{\s*(["'])(role|content|from|value)\1\s*:""")
# One message alone, both its keys beside each other: other objects are texts like any.
_LIKE_ONE: Final = re.compile(
    r"""\s*\{\s*(["'])(role\1\s*:\s*(["'])[a-z]+\3\s*,\s*(["'])content\4|content\1\s*:.*,\s*(["'])role\5)\s*:""",
    re.DOTALL,
)
_SOON: Final = 99  # characters within which such a list has begun
_SHARE_GPT: Final[Mapping[str, str]] = {"human": "user", "gpt": "assistant"}


def _with_messages(value: dict[str, Any]) -> tuple[dict[str, Any], list[str], Fault | None]:
    """The row with lists of messages in place of what says the same otherwise, in which forms it did, or what is wrong
    with them.
    """
    read: dict[str, Any] = {}
    forms: dict[str, None] = {}
    for name in _TEXTS:
        text = value.get(name)
        if isinstance(text, str):
            if text.endswith("}") and _LIKE_ONE.match(text):
                told = (
                    f"{name!r} is one message written as text, so that brackets and quotes would be trained on; write "
                    "it as a list of messages, or its content alone"
                )
                return value, [], Fault("messages as text", told)
            if not ("{" in text[:_SOON] and _LIKE_MESSAGES.match(text)):
                continue
            try:
                text = json.loads(text)
            except (ValueError, RecursionError):
                told = (
                    f"{name!r} is a list of messages written as text, and not as JSON, so that brackets and quotes "
                    "would be trained on; write it as a list, or as text by json.dumps"
                )
                return value, [], Fault("messages as text", told)
            forms["lists of messages as JSON text"] = None
        if isinstance(text, dict) and isinstance(text.get("messages"), list) and not text.get("tools"):
            text = text["messages"]
            forms["messages inside an object"] = None
        if isinstance(text, dict) and isinstance(text.get("role", text.get("from")), str):
            text = [text]
            forms["one message in the place of a list"] = None
        if isinstance(text, list):
            read[name] = [_as_message(message, forms) for message in text]
    return _of_one_form({**value, **read}, forms) if read else value, list(forms), None


def _as_message(message: Any, forms: dict[str, None]) -> Any:
    """A message with role and content, of what says the same otherwise; `forms` gets how it did."""
    if not isinstance(message, dict) or (isinstance(message.get("content"), str) and "role" in message):
        return message
    if isinstance(message.get("from"), str) and "value" in message and not {"role", "content"} & message.keys():
        others = {name: held for name, held in message.items() if name not in ("from", "value")}
        role = _SHARE_GPT.get(message["from"].lower(), message["from"])
        message = {"role": role, "content": message["value"], **others}
        forms["messages as 'from' and 'value' (human is read as user, gpt as assistant)"] = None
    content = message.get("content")
    if isinstance(content, list) and content and all(map(_is_text, content)):
        message = {**message, "content": "".join(part["text"] for part in content)}
        forms["the text of messages in parts"] = None
    elif content is None and message.get("tool_calls"):
        message = {**message, "content": ""}
        forms["calls of tools without content"] = None
    return message


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _of_one_form(value: dict[str, Any], forms: dict[str, None]) -> dict[str, Any]:
    """The row with plain answers behind messages as the assistant's, and a plain prompt before its answers as the
    user's.
    """
    prompt, answers = value.get("prompt"), [value.get(side) for side in SIDES]
    if isinstance(prompt, list) and all(isinstance(answer, str) for answer in answers):
        forms["messages before answers in plain text, which are read as the assistant's"] = None
        return value | {s: [{"role": "assistant", "content": value[s]}] for s in SIDES}
    firsts = [answer[0] for answer in answers if isinstance(answer, list) and answer and isinstance(answer[0], dict)]
    is_theirs = [first.get("role") for first in firsts] == ["assistant"] * 2 and firsts[0] != firsts[1]
    if isinstance(prompt, str) and prompt.strip() and is_theirs:
        forms["a plain prompt before messages, which is read as the user's"] = None
        return value | {"prompt": [{"role": "user", "content": prompt}]}
    return value


# ---- faults --------------------------------------------------------------------------------------------------------


_UNSUPPORTED: Final = frozenset({"tools", "chat_template_kwargs", "images", "image"})


def _row_fault(value: Mapping[str, Any]) -> Fault | None:
    """What is wrong with a raw row, with its remedy; None for a sound one."""
    faults = [
        _text_fault(side, value[side])
        if side in value
        else Fault("missing", f"{side!r} is missing; add it or remove the row")
        for side in SIDES
    ]
    if "prompt" in value:
        faults.append(_text_fault("prompt", value["prompt"]))
    faults += [
        Fault("unsupported columns", f"{column!r} is not supported yet; remove the column")
        for column in _UNSUPPORTED.intersection(value)
        if value[column]
    ]
    found = [fault for fault in faults if fault]
    if found:
        return Fault(found[0].kind, "; ".join(fault.text for fault in found))
    if isinstance(value["chosen"], list) != isinstance(value["rejected"], list):
        return Fault("mixed forms", "one answer is plain text and the other messages; write both in the same form")
    if value["chosen"] == value["rejected"]:
        return Fault("equal answers", "'chosen' and 'rejected' are equal, which teaches nothing; remove the row")
    return None


def _text_fault(name: str, value: Any) -> Fault | None:
    """What is wrong with a prompt or an answer; None for a sound one."""
    if value is None:
        return Fault("null", f"{name!r} is null; fill it in or remove the row")
    if isinstance(value, str) and not value.strip():
        return Fault("empty", f"{name!r} is empty; fill it in or remove the row")
    if isinstance(value, str):
        return None if _is_whole(value) else Fault("broken characters", f"{name!r} {_HALF}")
    if not isinstance(value, list):
        told = f"{name!r} is of type {type(value).__name__}, not text or a list of messages; write it as text"
        return Fault("not text", told)
    if not value:
        return Fault("empty", f"{name!r} is an empty list; fill it in or remove the row")
    if all(isinstance(one, str) for one in value):
        told = f"{name!r} is a list of {len(value)} texts, and a row has one; write a row for each pair of answers"
        return Fault("lists of texts", told)
    if all(isinstance(one, int | float) for one in value):
        told = f"{name!r} is a list of {len(value)} numbers, such as ids of tokens; write the text that they stand for"
        return Fault("lists of numbers", told)
    for i, message in enumerate(value, start=1):
        if isinstance(message, dict) and isinstance(message.get("content"), list):
            parts = sorted(
                {
                    str(part.get("type")) if isinstance(part, dict) else type(part).__name__
                    for part in message["content"]
                }
            )
            told = (
                f"message {i} of {name!r} has its content in parts ({', '.join(parts)[:60]}), and only text is trained "
                "on; write its text alone, or remove the row"
            )
            return Fault("parts that are no text", told)
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            told = f"message {i} of {name!r} lacks text in 'role' or 'content'; write it as role and content"
            return Fault("bad messages", told)
        try:
            whole = _is_whole(json.dumps(message, ensure_ascii=False))
        except TypeError as error:
            told = f"message {i} of {name!r} holds what JSON cannot ({error}); write it as text"
            return Fault("bad messages", told)
        if not whole:
            return Fault("broken characters", f"message {i} of {name!r} {_HALF}")
    if name != "prompt" and not value[-1]["content"].strip() and not value[-1].get("tool_calls"):
        return Fault("empty", f"{name!r} ends with an empty message; fill it in or remove the row")
    return None


_HALF: Final = "holds half of a character (a lone surrogate), which no tokenizer reads; repair or remove the row"


def _is_whole(text: str) -> bool:
    """Whether text can be written down: what comes from JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _explicit(value: Mapping[str, Any]) -> Row:
    """The row with its prompt taken out of the answers where they hold it, as TRL's `maybe_extract_prompt` does.

    That is where there is no prompt, or a prompt as plain text beside answers as messages. The prompt is then the
    longest common beginning: of messages, or of characters (which may end within a word: give a `prompt` to avoid it).
    """
    prompt, chosen, rejected = value.get("prompt"), value["chosen"], value["rejected"]
    if prompt is not None and isinstance(prompt, list) == isinstance(chosen, list):
        return Row(prompt=prompt, chosen=chosen, rejected=rejected)
    shorter = min(len(chosen), len(rejected))
    end = next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter - 1)
    if end and chosen[end] != rejected[end] and chosen[end - 1] == " ":
        end -= 1
    return Row(prompt=chosen[:end], chosen=chosen[end:], rejected=rejected[end:])


def _explicit_fault(row: Row, value: Mapping[str, Any]) -> Fault | None:
    """What is wrong with a row once its prompt is explicit; None for a sound one."""
    if not row["prompt"] or (isinstance(row["prompt"], str) and not row["prompt"].strip()):
        if "prompt" in value:
            told = (
                "'prompt' is plain text, and the answers are messages with no common beginning to take one from; "
                'write it as [{"role": "user", "content": ...}]'
            )
        else:
            told = "there is no 'prompt' and the answers have no common beginning to take it from; add a 'prompt'"
        return Fault("no prompt", told)
    if not row["chosen"] or not row["rejected"]:
        told = "one answer is the beginning of the other, so nothing is left of it beside the prompt; add a 'prompt'"
        return Fault("nothing beside the prompt", told)
    return None


_LONG_ENOUGH: Final = 12  # a prompt of a word or two may well begin both answers


def _is_repeated(row: Row) -> bool:
    """Whether an answer begins with the prompt, which stands before it already."""
    prompt = row["prompt"]
    if isinstance(prompt, list):
        return any(row[side][: len(prompt)] == prompt for side in ("chosen", "rejected"))
    start = prompt.strip()
    answers = (row["chosen"], row["rejected"])
    return len(start) >= _LONG_ENOUGH and any(isinstance(a, str) and a.lstrip().startswith(start) for a in answers)


# What stands before an answer where a conversation is written as text.
_TURN: Final = re.compile(
    r"(?im)^[ \t#*]*(?:assistant|response|answer):|\[/INST\]|(?:^|(?<=[|>]))assistant(?:<\|end_header_id\|>|\|>)?\n"
)


def _is_begun(row: Row) -> bool:
    """Whether a prompt that was taken from two texts ends within a word, or behind where an answer begins."""
    prompt, answers = row["prompt"], (row["chosen"], row["rejected"])
    if not isinstance(prompt, str):
        return False
    within = prompt[-1:].isalnum() and any(isinstance(answer, str) and answer[:1].isalnum() for answer in answers)
    turns = _TURN.split(prompt)
    return within or (len(turns) > 1 and bool(turns[-1].strip()))
