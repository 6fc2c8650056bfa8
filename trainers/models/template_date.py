"""Chat templates that ask what day it is: told one day, that of the study, so that ids do not change overnight."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from typing import Final

_TIMES: Final = ("%H", "%I", "%M", "%S", "%f", "%p", "%X", "%c", "%T", "%R", "%s")
_CALL: Final = re.compile(r"""strftime_now\(\s*(?:format\s*=\s*)?(["'])((?:(?!\1).)*)\1\s*\)""")


def is_dated(templates: Iterable[str]) -> bool:
    """Whether one of a tokenizer's chat templates asks what day it is."""
    return any("strftime_now" in template for template in templates)


def on_day(template: str, day: str) -> str:
    """The template with the day, as `2026-11-28`, written where it asks for it.

    `strftime_now` is what transformers gives to templates (`utils/chat_template_utils.py`). Raises ValueError where the
    template asks in a way that cannot be answered beforehand: by a format that is not written out, or for the time.
    """
    formats = [call[2] for call in _CALL.finditer(template)]
    dated = _CALL.sub(lambda call: repr(date.fromisoformat(day).strftime(call[2])), template)
    if re.search(r"strftime_now\s*\(", dated) or any(code in text for text in formats for code in _TIMES):
        raise ValueError(
            "the model's chat template asks for the time by strftime_now in a way that no day answers, so that its ids "
            "change from run to run: write a format of day, month and year into the template"
        )
    return dated
