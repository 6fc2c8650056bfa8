"""Finds the secrets in what a user gave: by the names of settings and variables, and in addresses. Shows nothing.

A secret is a value. The words around it are nobody's: `studies.text.redact` replaces the value wherever it turns up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote, unquote_plus

# Shorter ones could be words; those of variables are looked for from the second on, with care (see `redact`).
SHORTEST_VALUE: Final = 8
SHORTEST_OF_VARIABLES: Final = 5

# Ends of a word that make a name a secret's, also where words run together, as in PGPASSWORD.
_ENDINGS: Final = ("token", "secret", "password", "passwd", "passphrase", "passcode", "credential", "credentials")
# The same, of words that end so and mean something else: MYSQL_PWD and SSHPASS, not OLDPWD and GIT_ASKPASS.
_SHORT_ENDINGS: Final = ("pass", "pwd")
_OTHER_WORDS: Final = frozenset({"pass", "pwd", "oldpwd", "askpass", "bypass", "compass", "surpass", "encompass"})
PASSWORDS: Final = ("password", "passwd", "passphrase", "pwd")
# At the end of a name: `pat` is a personal access token, as in AZURE_DEVOPS_EXT_PAT, `pw` a password.
_WHOLE_WORDS: Final = frozenset({"auth", "authorization", "bearer", "cookie", "jwt", "pat", "pw"})
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
_IN_QUERY_TOO: Final = frozenset({"auth", "cookie", "jwt", "pass", "pwd", "sig", "signature"})
_KEY_OF: Final = frozenset(
    {"access", "account", "api", "app", "auth", "client", "private", "secret", "service", "shared", "subscription"}
)
_WEB: Final = ("http", "https", "ftp", "file", "git", "ssh", "s3", "gs", "hf")
_TOKENS: Final = ("http", "https", "ftp", "git", "hf", None)  # where a user alone signs in
# An address, as far as the next one: each part of a text is looked at once.
ADDRESS: Final = re.compile(r"(?:(?<![\w+.-])(?P<scheme>[A-Za-z][\w+.-]{0,30}))?://(?P<rest>(?:(?!://)[^\s\"'<>])*)")
# In a list of settings, as Azure, libpq and others take them.
_PAIR: Final = re.compile(r"(?:^|[;,&?\s])(?P<name>[\w.%-]{1,80})=(?P<value>[^\s;,&\"'$]+)")
_LONGEST_FILE: Final = 1 << 16
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
    if words[-1] in _WHOLE_WORDS or (len(words) > 1 and words[-1] in _SHORT_ENDINGS):
        return True
    return any(word in ("key", "webhook") or _ends_as_secret(word) for word in words)


def _ends_as_secret(word: str) -> bool:
    short = word.endswith(_SHORT_ENDINGS) and word not in _OTHER_WORDS
    return short or word.endswith(_ENDINGS) or word.endswith(_KEYS)


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
        if _ends_as_secret(word) or word in _IN_QUERY_TOO:
            return True
        if word == "key" and (before in _KEY_OF or len(words) == 1):
            return True
    return False


def is_secret_pair(name: str, value: str) -> bool:
    """Whether a name and a value that stand together in any text are a secret's: the name is one that is used for
    nothing else, as accessToken, AccountKey or password, and the value no word, number, path or place in a program.
    """
    words, last = _words(name), name.rpartition(".")[2]
    if last in _SPECIAL_TOKENS or not (is_secret_parameter(name) and (len(words) > 1 or words[0].endswith(PASSWORDS))):
        return False
    mixed = re.search(r"[0-9]", value) and re.search(r"[A-Za-z]", value)
    is_number = re.fullmatch(r"[+-]?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?", value)  # gold_per_token: 1.9e-05
    is_place = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+|[~.]{0,2}/[^=]*", value)
    return bool(mixed) and not is_number and not is_place


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
    found = {*_in_addresses("\n".join(arguments)), *(one for word in arguments for one in _in_one_address(word))}
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
    """The values of the environment's variables with secret names, no words such as "true", and what addresses and
    lists of settings in any of them hold.
    """
    return frozenset().union(*(_of_variable(name, value) for name, value in os.environ.items()))


@lru_cache(maxsize=1000)
def _of_variable(name: str, value: str) -> frozenset[str]:
    found = {*_in_addresses(value), *_in_one_address(value)}
    pairs = [(pair["name"], pair["value"]) for pair in _PAIR.finditer(value)]
    found |= {text for key, text in pairs if key.lower() in PASSWORDS or is_secret_pair(key, text)}
    found |= {value} if is_secret(name) else set()
    return frozenset(secret for secret in found if len(secret) >= SHORTEST_OF_VARIABLES)


def secrets_of_files() -> frozenset[str]:
    """What the libraries sign in with where no variable says it: tokens and passwords in files of the user's home."""
    home, kept = os.path.expanduser("~"), os.environ.get
    cache = kept("XDG_CACHE_HOME") or f"{home}/.cache"
    return _of_files(
        kept("HF_TOKEN_PATH") or f"{kept('HF_HOME') or f'{cache}/huggingface'}/token",
        kept("NETRC") or f"{home}/.netrc",
        f"{home}/.mlflow/credentials",
    )


@lru_cache(maxsize=100)
def _of_files(token: str, netrc: str, mlflow: str) -> frozenset[str]:
    found = {_beginning_of(token).strip()}
    found |= set(re.findall(r"\bpassword\s+(\S+)", _beginning_of(netrc)))
    found |= set(re.findall(r"^\s*mlflow_tracking_password\s*=\s*(\S+)", _beginning_of(mlflow), re.MULTILINE))
    return frozenset(secret.strip("\"'") for secret in found if len(secret) >= SHORTEST_OF_VARIABLES)


def _beginning_of(file: str) -> str:
    """Of a regular file that can be read; nothing of any other."""
    try:
        if not os.path.isfile(file):
            return ""
        with open(file, encoding="utf-8", errors="replace") as stream:
            return stream.read(_LONGEST_FILE)
    except OSError:
        return ""


def _in_addresses(text: str) -> Iterator[str]:
    """Logins and secret parameters of the addresses in a text, as they stand there and decoded."""
    if "://" not in text:
        return
    for match in ADDRESS.finditer(text):
        yield from _login(match["scheme"], match["rest"])
    for match in QUERY.finditer(text):
        if is_secret_parameter(match["name"]):
            yield from (match["value"], unquote_plus(match["value"]))


def _in_one_address(text: str) -> Iterator[str]:
    """The same of a text that is one address, whose password may hold spaces and quotes."""
    match = re.match(r"(?:-+[\w.-]+=)?([A-Za-z][\w+.-]{0,30})://", text)
    if match is not None:
        yield from _login(match[1], text[match.end() :])


def login_of(scheme: str | None, address: str) -> str:
    """User and password in what stands after `://`, which ends before the @; "" where there is none. A user alone is a
    token in an address of the web, and no secret in one of a database.

    They may hold what should have been percent-encoded: @, which ends nothing, and / ? #, where a colon tells them from
    a host. Behind the host of a web address an @ belongs to its path; a database has no such paths.
    """
    host = re.split(r"[/?#]", address, maxsplit=1)[0]
    login = host.rpartition("@")[0]
    if not ("@" in host and scheme in _WEB):
        whole = address.rpartition("@")[0]
        user, colon, password = whole.partition(":")
        if colon and not re.search(r"[/?#]", user) and not re.match(r"\d{1,5}[/?#]", password):
            login = whole
    return login if ":" in login or scheme in _TOKENS else ""


def _login(scheme: str | None, address: str) -> Iterator[str]:
    """The password, or the user who needs none, in what stands after `://`; also as far as libraries read it, and each
    part that errors quote where it holds what should have been percent-encoded.
    """
    login = login_of(scheme, address)
    user, colon, password = login.partition(":")
    secret = password if colon else user
    if secret:
        yield from (secret, unquote(secret), *re.split(r"[/?#@]", secret), secret.partition("@")[0])
    if colon and len(secret) < SHORTEST_VALUE:
        yield login  # too short to be known by itself
