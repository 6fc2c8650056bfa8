"""Facts about single messages that stand as text where a prompt or an answer should."""

from __future__ import annotations

import json

import pytest

from trainers.data.rows import Fault, as_row, in_plain_text

ASSISTANT = {"role": "assistant", "content": "Yes: it is, so {there}."}
TURNED = {"content": "Yes: it is.", "role": "assistant"}


@pytest.mark.parametrize("text", [json.dumps(ASSISTANT), repr(ASSISTANT), json.dumps(TURNED), repr(TURNED)])
def test_one_message_as_text_is_a_fault(text: str) -> None:
    row, _ = as_row({"prompt": "Is it?", "chosen": text, "rejected": " No."}, {})
    assert isinstance(row, Fault)
    assert row.kind == "messages as text"
    assert "'chosen' is one message written as text" in row.text


@pytest.mark.parametrize("text", ['{"role": "admin", "id": 3}', '{"content": "x"}', "{role: user, content: x}"])
def test_other_objects_are_texts_like_any(text: str) -> None:
    row, _ = as_row({"prompt": "Write JSON.", "chosen": text, "rejected": " No."}, {})
    assert not isinstance(row, Fault)


def test_a_call_of_a_tool_is_not_lost_where_messages_are_written_out() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}]}
    prompt, no = [{"role": "user", "content": "Where?"}], [{"role": "assistant", "content": "No."}]
    row, seen = as_row({"prompt": prompt, "chosen": [call], "rejected": no}, {})
    assert not isinstance(row, Fault)
    assert seen.forms == ("calls of tools without content",)
    assert in_plain_text(row)["chosen"] == ' [{"function": {"name": "look"}}]'
