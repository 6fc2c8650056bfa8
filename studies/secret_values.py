"""Finds the secrets in what a user gave: by the names of settings and variables, and in addresses. Shows nothing.

A secret is a value. The words around it are nobody's: `studies.redact` replaces the value wherever it turns up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote, unquote_plus

# Shorter ones could be words.
SHORTEST_VALUE: Final = 8

# Ends of a word that make a name a secret's, also where words run together, as in PGPASSWORD.
_ENDINGS: Final = ("token", "secret", "password", "passwd", "passphrase", "credential", "credentials")
_KEYS: Final = ("apikey", "accesskey", "secretkey", "privatekey", "authkey")
# Last words of a name that is about a secret, or about tokens, and holds none.
_ABOUT: Final = frozenset({"level", "type", "kind", "name", "path", "file", "dir", "length", "size", "count", "limit"})
_SPECIAL_TOKENS: Final = frozenset(
    {"pad_token", "eos_token", "bos_token", "unk_token", "sep_token", "cls_token", "mask_token"}
)
# Below these keys of a study names are the user's own, or those of knobs, whose values are no secrets.
OWN_NAMES: Final = frozenset({"variants", "scenarios", "space", "points"})

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# In a query, as services call them: `key` alone and as in access_key, but not as in orderByKey.
_IN_QUERY_TOO: Final = frozenset({"auth", "pwd", "sig", "signature"})
_KEY_OF: Final = frozenset(
    {"access", "account", "api", "app", "auth", "client", "private", "secret", "service", "shared", "subscription"}
)
QUERY: Final = re.compile(r"(?P<lead>[?&;](?P<name>[\w.%-]{1,80})=)(?P<value>[^\s&;#\"'<>)\]}]+)")
# A name, its sign and its value, as YAML, JSON, an assignment or an option write them.
_NAMED: Final = re.compile(
    r"""(?<![\w.-])(?P<name>[\w.-]++)["']?[ \t]*[=:][ \t]*"""
    r"""(?:"(?P<double>[^"\n]*)"|'(?P<single>[^'\n]*)'|(?P<bare>[^\n,{}\[\]"']+))"""
)


def is_secret(name: str) -> bool:
    """Whether a setting or variable of this name may hold a secret, by its words: token, key, secret, password."""
    last = name.rpartition(".")[2]
    words = _words(last)
    if not words or last in _SPECIAL_TOKENS or words[-1] in _ABOUT or words[-2:] == ["per", "token"]:
        return False
    return any(word == "key" or word.endswith(_ENDINGS) or word.endswith(_KEYS) for word in words)


def holds_secret(name: str, value: Any) -> bool:
    """Whether `value` under `name` is a secret: no truth value, no special token as <pad>, no number of tokens."""
    return is_secret(name) and _tells(value, number="token" not in name.lower() and "key" not in name.lower())


def _tells(value: Any, *, number: bool) -> bool:
    if isinstance(value, Mapping):
        return any(_tells(item, number=number) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_tells(item, number=number) for item in value)
    if isinstance(value, str):
        return bool(value) and not re.fullmatch(r"<[^\n]*>|\[[^\n]*\]", value)
    if isinstance(value, bool):
        return False
    # A long whole number may be what YAML made of a text of digits.
    return (isinstance(value, int | float) and number) or (isinstance(value, int) and len(str(value)) >= SHORTEST_VALUE)


def is_secret_parameter(name: str) -> bool:
    """Whether a parameter of this name in the query of an address holds a secret."""
    words = _words(name)
    for before, word in zip(["", *words], words, strict=False):
        if word.endswith(_ENDINGS) or word.endswith(_KEYS) or word in _IN_QUERY_TOO:
            return True
        if word == "key" and (before in _KEY_OF or len(words) == 1):
            return True
    return False


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def secrets_in(given: Any) -> frozenset[str]:
    """The values of secret names in mappings and lists of settings, and what the addresses in them hold."""
    return frozenset(_in(given, named=True))


def _in(given: Any, *, named: bool) -> Iterator[str]:
    if isinstance(given, Mapping):
        for name, item in given.items():
            if named and isinstance(name, str) and holds_secret(name, item):
                yield from _leaves(item)
            yield from _in(item, named=not (named and name in OWN_NAMES))
    elif isinstance(given, list | tuple):
        for item in given:
            yield from _in(item, named=named)
    elif isinstance(given, str):
        yield from _in_addresses(given)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def secrets_in_text(text: str) -> frozenset[str]:
    """The same for text that should be YAML and cannot be read as such."""
    found = set(_in_addresses(text))
    for match in _NAMED.finditer(text):
        if is_secret(match["name"]):
            value = match["double"] or match["single"] or match["bare"] or ""
            found |= {value.strip(), *(word.lstrip("*&!|>%@`") for word in value.split())}  # as errors quote it
    return frozenset(found)


def secrets_in_options(arguments: Sequence[str]) -> frozenset[str]:
    """Secrets among the words of a command: in KEY=VALUE, also with another sign or as the next word, in addresses."""
    found = set(_in_addresses("\n".join(arguments)))
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, sign, value = word.partition("=")
        while sign and name.startswith("-") and not is_secret(name):  # --set=KEY=VALUE
            name, sign, value = value.partition("=")
        if re.fullmatch(r"(-|[\w-]+\.)[\w.-]+", word) and is_secret(word):
            found |= {following} if not following.startswith("-") else set()
        elif sign:
            found |= {value} if is_secret(name) else set()
        else:
            found |= secrets_in_text(word)
    return frozenset(found)


def secrets_of_environment() -> frozenset[str]:
    """The values of the environment's variables with secret names, no words such as "true", and what addresses hold."""
    found = set[str]()
    for name, value in os.environ.items():
        found.update(_in_addresses(value))
        if len(value) >= SHORTEST_VALUE and is_secret(name):
            found.add(value)
    return frozenset(found)


def _in_addresses(text: str) -> Iterator[str]:
    """Logins and secret parameters of the addresses in a text, as they stand there and decoded."""
    if "://" not in text:
        return
    for part in text.split("://")[1:]:
        yield from _login(re.split(r"[\s\"']", part, maxsplit=1)[0])
    for match in QUERY.finditer(text):
        if is_secret_parameter(match["name"]):
            yield from (match["value"], unquote_plus(match["value"]))


def _login(address: str) -> Iterator[str]:
    """The password, or the user who needs none, in what stands after `://`.

    It may hold what should have been percent-encoded (/, #, ?, @), and then each part of it is what errors quote.
    """
    login, at, _ = address.rpartition("@")
    user, colon, password = login.partition(":")
    if not at or re.search(r"[/?#]", user) or re.match(r"\d{1,5}[/?#]", password):  # it is a path that holds an @
        return
    secret = password if colon else user
    yield from (secret, unquote(secret), *re.split(r"[/?#@]", secret))
    if colon and len(secret) < SHORTEST_VALUE:
        yield login  # too short to be known by itself
