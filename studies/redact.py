"""Takes secrets out of what is about to be written or shown: the one place that knows what a secret looks like.

Called wherever something leaves a process: MLflow, result files, exports, tables, the terminal. Knows nothing of them.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

REDACTED: Final = "(not recorded)"

_SECRET_WORDS: Final = frozenset(
    {"token", "key", "apikey", "secret", "password", "passwd", "passphrase", "credential", "credentials"}
)
_NOT_SECRET: Final = frozenset(
    {"pad_token", "eos_token", "bos_token", "unk_token", "sep_token", "cls_token", "mask_token"}
)

# Values of the environment shorter than this are words such as "true", found everywhere.
_SHORTEST_VALUE: Final = 8

# Each of these takes time in proportion to the text, whatever that is: no part of it is looked at again and again.
_FORMS: Final = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
      hf_[A-Za-z0-9]{8,} | api_org_[A-Za-z0-9]{8,}                    # Hugging Face
    | gh[pousr]_[A-Za-z0-9]{16,} | github_pat_\w{16,} | glpat-[\w-]{16,}
    | sk-[A-Za-z0-9_-]{16,}                                           # OpenAI, Anthropic and others
    | (?:AKIA|ASIA)[A-Z0-9]{16}                                       # AWS
    | AIza[\w-]{30,} | xox[abeoprs]-[\w-]{10,} | dapi[0-9a-f]{32} | npm_[A-Za-z0-9]{30,}
    | eyJ[\w-]{10,1000}\.[\w-]{10,}\.[\w-]{5,}                        # a signed JSON web token
    )
    | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)
    | (?<=[Bb]earer[ ])[A-Za-z0-9._~+/-]{8,}=*
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_URL: Final = re.compile(r"(://)[^\s/?#\"'<>]+@")
_LOGIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^\s/?#:]*:)?([^\s/?#]+)@")
_IN_QUERY: Final = re.compile(
    r"([?&;][\w.%-]{0,60}(?:token|key|secret|passw|pwd|sig|credential|auth)[\w.%-]{0,60}=)[^\s&;#\"'<>)\]}]+",
    re.IGNORECASE,
)
# A name, its sign and its value, as YAML, JSON, an assignment or an option write them.
_NAMED: Final = re.compile(
    r"""(?P<lead>(?<![\w.-])(?P<name>[\w.-]++)["']?(?:\s*=\s*|\s*:[ \t]+))"""
    r"""(?:"(?P<double>[^"\n]*)"|'(?P<single>[^'\n]*)'|(?P<bare>[^\s,;&{}\[\]()#"'][^\s,;&{}\[\]()"']*))"""
)


def is_secret(name: str) -> bool:
    """Whether a setting of this name may hold a secret: a word of it is token, key, secret or password."""
    last = name.rpartition(".")[2]
    if last in _NOT_SECRET or last.endswith("per_token"):
        return False
    return not _SECRET_WORDS.isdisjoint(re.split(r"[^a-z]+", last.lower()))


def redact(value: Any, *, by_name: bool = True) -> Any:
    """`value` with all that looks like a secret replaced, at any depth of mappings and lists.

    In text: keys and tokens of known forms, user and password of a URL, secret parameters of a query, what stands after
    a secret name, and every value of an environment variable with a secret name. In a mapping also whole values by
    their name; not so with `by_name=False`, for mappings whose names are the caller's own.
    """
    return _redact(value, _environment(), by_name)


def redact_output() -> None:
    """From here on what this process prints goes through `redact`, as do tracebacks and log records.

    A piece at a time, as it is written; what native code writes by itself is not seen.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        setattr(sys, name, _Output(stream.buffer, stream.encoding, "backslashreplace", line_buffering=True))


class _Output(io.TextIOWrapper):
    def write(self, text: str) -> int:
        super().write(redact(text))
        return len(text)


def _redact(value: Any, known: tuple[str, ...], by_name: bool) -> Any:
    if isinstance(value, str):
        return _text(value, known)
    if isinstance(value, Mapping):
        return {
            name: REDACTED
            if by_name and isinstance(name, str) and is_secret(name) and item is not None
            else _redact(item, known, by_name)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(_redact(item, known, by_name) for item in value)
    return value


def _text(text: str, known: tuple[str, ...]) -> str:
    for secret in known:
        text = text.replace(secret, REDACTED)
    return REDACTED.join(map(_part, text.split(REDACTED)))


def _part(text: str) -> str:
    text = _IN_URL.sub(rf"\1{REDACTED}@", text)
    text = _IN_QUERY.sub(rf"\1{REDACTED}", text)
    text = _FORMS.sub(REDACTED, text)
    return _NAMED.sub(_value_of_secret_name, text)


def _value_of_secret_name(match: re.Match[str]) -> str:
    bare = match["bare"]
    if not is_secret(match["name"]) or bare in ("null", "None", "true", "false"):
        return match[0]
    quote = '"' if match["double"] is not None else "'" if match["single"] is not None else ""
    return f"{match['lead']}{quote}{REDACTED}{quote}"


def _environment() -> tuple[str, ...]:
    """The secrets of the environment, longest first: values of secret names, and passwords within URLs."""
    found = set()
    for name, value in os.environ.items():
        if is_secret(name):
            found.add(value)
        elif match := _LOGIN.match(value):
            found |= {match[1], unquote(match[1])}
    return tuple(sorted((value for value in found if len(value) >= _SHORTEST_VALUE), key=len, reverse=True))
