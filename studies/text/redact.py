"""Takes secrets out of what is about to be written or shown. They are known by value, or by a form of their own.

Called wherever something leaves a process: MLflow, result files, exports, tables, the terminal. Knows nothing of them.
No word of ours is ever a secret for standing beside the word token or key: `studies.text.secret_values` looks for
values where they are given.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TextIO
from urllib.parse import quote, quote_plus, unquote

from studies.text.secret_values import (
    ADDRESS,
    OWN_NAMES,
    PASSWORDS,
    QUERY,
    SHORTEST_VALUE,
    holds_secret,
    is_secret,
    is_secret_pair,
    is_secret_parameter,
    login_of,
    secrets_in,
    secrets_in_options,
    secrets_of_environment,
    secrets_of_files,
)
from studies.text.visible import visible_but_for_rich, visible_lines

__all__ = ["REDACTED", "is_secret", "note_command", "note_settings", "redact", "redact_output"]

REDACTED: Final = "(not recorded)"

_SHORTEST_LINE: Final = 16  # of a secret of several lines, to be known by itself
_WORD: Final = r"[0-9]+|[a-z]{1,15}|[A-Z]{1,15}"  # no part of a longer word or number is one of these
_PLAIN: Final = r"[a-z_.-]+|[A-Z_.-]+|[A-Z][a-z_.-]+|[0-9.,:+-]+"
_COMMON: Final = frozenset({"password", "postgres", "changeme", "username", "database", "12345678", "123456789"})
_ESCAPE: Final = re.compile(r"%[0-9A-F]{2}")

# Each of these takes time in proportion to the text, whatever that is: no part of it is looked at again and again.
_FORMS: Final = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
      gh[pousr]_[A-Za-z0-9]{16,} | github_pat_\w{16,} | glpat-[\w-]{16,} | pypi-[\w-]{40,}
    | (?:AKIA|ASIA)[A-Z0-9]{16}                                       # AWS
    | AIza[\w-]{30,} | ya29\.[\w-]{20,} | xox[abeoprs]-[\w-]{10,} | dapi[0-9a-f]{32} | npm_[A-Za-z0-9]{30,}
    | [sr]k_(?:live|test)_[A-Za-z0-9]{16,} | nvapi-[\w-]{20,} | gsk_[A-Za-z0-9]{20,} | r8_[A-Za-z0-9]{20,}
    | SG\.[\w-]{16,80}\.[\w-]{16,}
    | hooks\.slack\.com/(?:services|workflows)/[\w/-]{16,} | discord(?:app)?\.com/api/webhooks/[\w/-]{16,}
    | eyJ[\w-]{10,1000}\.[\w-]{10,}\.[\w-]{5,}                        # a signed JSON web token
    | (?:hf_|api_org_)(?P<hugging>[A-Za-z0-9]{8,})                    # Hugging Face
    | sk-(?P<dashed>[A-Za-z0-9_-]{16,})                               # OpenAI, Anthropic and others
    )
    | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY(?:[ ]BLOCK)?-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY(?:[ ]BLOCK)?-----|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
# What HTTP signs in with, in a header as it is sent or as Python and JSON write it.
_HEADER: Final = re.compile(
    r"""
    (?P<lead>\bauthorization["']?\s?[:=]\s?b?["']?(?:basic|bearer|token|digest|negotiate)\s)(?P<sure>[^\s"',;<>(){}]+)
    | (?P<basic>\bbasic\s)(?P<pair>[A-Za-z0-9+/]{8,}+={0,2})
    | (?P<bearer>\bbearer\s)(?P<header>[A-Za-z0-9._~+/-]{8,}=*)
    | (?P<cookie>\b(?:set-)?cookie["']?\s?:\s?b?["']?)(?P<crumbs>[^\s=;"']+=[^\n"']+)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_PAIR: Final = re.compile(
    r"""(?<![\w.])(?P<lead>(?P<name>[A-Za-z][\w.-]{2,60}+)["']?(?P<sign>\s?[:=]\s?)["']?)(?P<value>[\w+/.~-]{8,}+={0,2})(?![\w(\[])"""
)

# What the commands of this process were given. A process has one output, and no more than one command at a time.
_noted: Final[set[str]] = set()


def note_command(arguments: Sequence[str]) -> None:
    """Know from here on the secrets among the words of a command, and forget those of an earlier command."""
    _noted.clear()
    _noted.update(secrets_in_options(arguments))


def note_settings(settings: Any) -> None:
    """Know from here on the secrets in the settings of a study or a run: mappings and lists of them."""
    _noted.update(secrets_in(settings))


def redact(value: Any, *, by_name: bool = True, also: Collection[str] = ()) -> Any:
    """`value` with all secrets replaced, at any depth of mappings and lists.

    In text: keys and tokens of known forms, user and password of a URL, secret parameters of a query, what HTTP signs
    in with, and every value that is known as a secret: of the environment, of the files that libraries sign in with, of
    the command and the settings that were noted, and `also`. A short one, or a common word, only where it is told from
    other people's words. In a
    mapping also whole values by their name; not so with `by_name=False`, for mappings whose names are the caller's own.
    """
    return _redact(
        value, _known({*secrets_of_environment(), *secrets_of_files(), *tuple(_noted), *also}), by_name, by_name
    )


def redact_output() -> None:
    """From here on what this process prints goes through `redact`, as do tracebacks and log records, and no character
    of it acts on a terminal; see `studies.text.visible`.

    A piece at a time, as it is written; what native code writes by itself is not seen. Rich writes to a stream of its
    own, which lets through what rich adds to the text.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:  # closed by who started the process
            setattr(sys, name, _Output(stream))


class _Stream(io.TextIOWrapper):
    def __init__(self, stream: TextIO) -> None:
        # Written through, since two of these share a buffer.
        super().__init__(stream.buffer, stream.encoding, "backslashreplace", line_buffering=True, write_through=True)


class _Output(_Stream):
    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.rich_proxied_file = _OutputOfRich(stream)  # where rich looks for what to write to

    def write(self, text: str) -> int:
        super().write(visible_lines(redact(text)))
        return len(text)


class _OutputOfRich(_Stream):
    def write(self, text: str) -> int:
        super().write(visible_but_for_rich(redact(text)))
        return len(text)


class _Known(NamedTuple):
    """Secret values as they are looked for: `anywhere`, the longest first, and those told by what is around."""

    anywhere: Sequence[str]
    around: re.Pattern[str] | None


def _known(found: Collection[str]) -> _Known:
    secrets = [secret for secret in found if secret not in REDACTED]  # of what was redacted before
    weak = {secret for secret in secrets if len(secret) < SHORTEST_VALUE or secret in _COMMON}
    spellings = {
        spelling
        for secret in {*secrets} - weak
        for spelling in _spellings(secret)
        if len(spelling) >= SHORTEST_VALUE and spelling not in _COMMON
    }
    words = {spelling for spelling in spellings if re.fullmatch(_WORD, spelling)}
    around = {_as_a_word(word) for word in words} | {_weak_one(secret) for secret in weak}
    return _Known(sorted(spellings - words, key=len, reverse=True), _any_of(tuple(sorted(around - {""}))))


@lru_cache(maxsize=10_000)
def _spellings(secret: str) -> frozenset[str]:
    """A secret as text, as URLs, JSON, Python and HTML write it, and line by line."""
    plain = {secret, secret.strip(), unquote(secret)}
    plain |= {line.strip() for line in secret.splitlines() if len(line.strip()) >= _SHORTEST_LINE}
    written = {
        spelling
        for text in plain
        for spelling in (
            quote(text, safe=""),
            _ESCAPE.sub(lambda match: match[0].lower(), quote(text, safe="")),
            quote(text),
            quote(text, safe=" +"),
            quote_plus(text),
            json.dumps(text)[1:-1],
            json.dumps(text, ensure_ascii=False)[1:-1],
            repr(text)[1:-1],
            html.escape(text),
        )
    }
    return frozenset(plain | written)


def _weak_one(secret: str) -> str:
    """A pattern for a secret that could be a word or a number of anybody's, where it is told from those: hunter2 by its
    digit; abc only as Python quotes it, in an address, or behind a name that says what it is.
    """
    if len(secret) < 3 or secret in ("null", "None", "true", "false"):
        return ""
    if len(secret) > 3 and secret not in _COMMON and not re.fullmatch(_PLAIN, secret):
        return _as_a_word(secret)
    named = "|".join(f"(?<={end}{sign})" for end in ("word", "pass", "pwd", "token", "secret", "key") for sign in "=:")
    text = re.escape(secret)
    return rf"(?<=')(?-i:{text})(?=')|(?<=:){text}(?=@)|(?i:{named}){text}(?!\w)"


def _as_a_word(text: str) -> str:
    return rf"(?<!\w)(?<!\d\.){re.escape(text)}(?!\w|\.\d)"


@lru_cache(maxsize=100)
def _any_of(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(patterns)) if patterns else None


def _redact(value: Any, known: _Known, by_name: bool, named: bool) -> Any:
    """`named`: whether the names in this mapping are those of settings."""
    if isinstance(value, str):
        return _text(value, known)
    if isinstance(value, Mapping):
        return {
            name: REDACTED
            if named and isinstance(name, str) and holds_secret(name, item)
            else _redact(item, known, by_name, by_name and not (named and name in OWN_NAMES))
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(_redact(item, known, by_name, named) for item in value)
    return value


def _text(text: str, known: _Known) -> str:
    for secret in known.anywhere:
        text = text.replace(secret, REDACTED)
    text = known.around.sub(REDACTED, text) if known.around is not None else text
    return REDACTED.join(map(_part, text.split(REDACTED)))


def _part(text: str) -> str:
    text = ADDRESS.sub(_address, text)
    text = QUERY.sub(_parameter, text)
    text = _HEADER.sub(_header, text)
    text = REDACTED.join(_PAIR.sub(_pair, part) for part in text.split(REDACTED))
    return _FORMS.sub(_form, text)


def _address(match: re.Match[str]) -> str:
    login = login_of(match["scheme"], match["rest"])
    return f"{match['scheme'] or ''}://{REDACTED}{match['rest'][len(login) :]}" if login else match[0]


def _parameter(match: re.Match[str]) -> str:
    return match["lead"] + REDACTED if is_secret_parameter(match["name"]) else match[0]


def _pair(match: re.Match[str]) -> str:
    """A name and its value. What people say of passwords, with a colon, has no form of a secret's."""
    is_said = match["sign"] != "=" and match["name"].isalpha() and match["name"].lower().endswith(PASSWORDS)
    secret = not is_said and is_secret_pair(match["name"], match["value"])
    return match["lead"] + REDACTED if secret else match[0]


def _header(match: re.Match[str]) -> str:
    if match["lead"] or match["cookie"]:
        return (match["lead"] or match["cookie"]) + REDACTED
    if match["basic"]:
        return match["basic"] + REDACTED if _is_login(match["pair"]) else match[0]
    return match["bearer"] + REDACTED if _is_random(match["header"]) else match[0]


def _is_login(text: str) -> bool:
    """Whether user and password stand in it, as they are sent."""
    try:
        return b":" in base64.b64decode(text, validate=True)
    except ValueError:
        return False


def _is_random(text: str) -> bool:
    return len(text) >= 20 or re.search(r"[0-9=]|[a-z][A-Z]", text) is not None


def _form(match: re.Match[str]) -> str:
    """Nothing of what is a secret; names that begin as one does stay: hf_transfer, sk-learn-comparison-of-losses."""
    if match["hugging"] is not None and not _is_random(match["hugging"]):
        return match[0]
    dashed = match["dashed"]
    if dashed is not None and not re.search(r"[A-Za-z0-9]{16}", dashed):
        return REDACTED if re.search("[0-9]", dashed) and re.search("[A-Z]", dashed) else match[0]
    return REDACTED
