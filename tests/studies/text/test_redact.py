"""What is taken out of text and mappings, and what is left in."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from studies.records import METRICS
from studies.text.redact import REDACTED, is_secret, note_command, note_settings, redact, redact_output
from tests.robustness.harness import in_time

HF = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"
URL = "Max retries exceeded with url: /x"
FORMS = [
    HF,
    "ghp_" + "0" * 36,
    "github_pat_" + "A1" * 20,
    "sk-proj-" + "a1B2" * 8,
    "sk-ant-api03-" + "x" * 40,
    "AKIA" + "ABCDEFGH12345678",
    "glpat-" + "x" * 20,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "hooks.slack.com/services/T0000/B0000/" + "x" * 24,
    "discord.com/api/webhooks/" + "1" * 18 + "/" + "a-B" * 10,
]


@pytest.mark.parametrize("secret", FORMS)
@pytest.mark.parametrize("around", ["{}", "x={}", "401 for '{}': no", "a/{}/b", '{{"a": "{}"}}', "({})"])
def test_known_forms_of_secrets_are_taken_out_wherever_they_stand(secret: str, around: str) -> None:
    shown = redact(around.format(secret))
    assert secret not in shown
    assert REDACTED in shown


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://me:pass@host.org/x", f"https://{REDACTED}@host.org/x"),
        ("postgresql+psycopg://me:p%40ss@host:5432/db", f"postgresql+psycopg://{REDACTED}@host:5432/db"),
        ("https://tok@host/x.git", f"https://{REDACTED}@host/x.git"),
        ("https://h/x?a=1&token=abc&b=2", f"https://h/x?a=1&token={REDACTED}&b=2"),
        ("https://h/x?X-Amz-Signature=abc", f"https://h/x?X-Amz-Signature={REDACTED}"),
        ("Authorization: Bearer abcdefgh123", f"Authorization: Bearer {REDACTED}"),
        ("Max retries exceeded with url: /x?api_key=abc (Caused by", f"{URL}?api_key={REDACTED} (Caused by"),
        ("https://h/x?key=abc#a", f"https://h/x?key={REDACTED}#a"),
        (
            "https://h/x?AWSAccessKeyId=abc;accessToken=d",
            f"https://h/x?AWSAccessKeyId={REDACTED};accessToken={REDACTED}",
        ),
        ("{'Authorization': 'Basic bWU6cGFzcw=='}", f"{{'Authorization': 'Basic {REDACTED}'}}"),
        ("postgresql://bob:Sup3r/Se#c?r@t@host:5432/db", f"postgresql://{REDACTED}@host:5432/db"),
        (
            "mysql+pymysql://bob:a:b@host and redis://:x/y@h/0",
            f"mysql+pymysql://{REDACTED}@host and redis://{REDACTED}@h/0",
        ),
        ("https://me:pass@host/@scope/x?mail=a@b.org", f"https://{REDACTED}@host/@scope/x?mail=a@b.org"),
        ('"authorization": "basic abc"', f'"authorization": "basic {REDACTED}"'),
        ("Proxy-Authorization: Basic bWU6cGFzcw==", f"Proxy-Authorization: Basic {REDACTED}"),
        ("sent Basic bWU6c2VjcmV0cGFzcw== to it", f"sent Basic {REDACTED} to it"),
        ("Authorization: token abcdef", f"Authorization: token {REDACTED}"),
        ("BEARER abcdefgh123", f"BEARER {REDACTED}"),
        ("Cookie: session=abc; theme=dark", f"Cookie: {REDACTED}"),
        ("{'Set-Cookie': 'sid=abc; Path=/'}", f"{{'Set-Cookie': '{REDACTED}'}}"),
        ("https://h/x?sv=1&sig=a%2Bb&jwt=c&pwd=d", f"https://h/x?sv=1&sig={REDACTED}&jwt={REDACTED}&pwd={REDACTED}"),
        ("AccountName=me;AccountKey=Ab1/cd+efg==;End=x", f"AccountName=me;AccountKey={REDACTED};End=x"),
        ('{"accessToken": "abc123def4", "n": 1}', f'{{"accessToken": "{REDACTED}", "n": 1}}'),
        ("clientSecret='q8~xY7z.w6v'", f"clientSecret='{REDACTED}'"),
        ("PGPASSWORD=Sup3rSecret psql --password=Sup3rSecret", f"PGPASSWORD={REDACTED} psql --password={REDACTED}"),
        ("host=db user=me password=Sup3rSecret dbname=x", f"host=db user=me password={REDACTED} dbname=x"),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----\nabc\n-----END PGP PRIVATE KEY BLOCK-----\nx", f"{REDACTED}\nx"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc cut off", REDACTED),
    ],
    ids=lambda _: "text",  # pytest keeps the name of a test in the environment, where its addresses would be known
)
def test_the_rest_of_the_text_stays(text: str, left: str) -> None:
    assert redact(text) == left
    assert redact(left) == left


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me/mlflow.db",
        "mail me@example.org",
        "a task-risk-analysis-of-some-length",
        "max_new_tokens: 256",
        '{"kl_per_token": 0.05, "gold_per_token": 1}',
        "pad_token: <pad>",
        "token: null",
        "unknown key; valid here are low, high",
        "hf_hub",
        "beta=0.1, learning_rate=1e-05",
        "https://host.org/a?page=2#x",
        # Words of ours beside a name that could be a secret's.
        "--set KEY=VALUE",
        "base.hub_token: left out, the study's own folders keep what is trained",
        "api_key: unknown key; valid here are low, high, log",
        "error: --set token=3: there is no such place in the study file",
        "key: 0123456789ab, token: sigmoid, secret = 1, password='ipo'",
        '{"key": "0123456789ab", "token": {"beta": 0.1}}',
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=byvariant",
        "https://h/x?orderByKey=start_time&author=me&sigmoid=1&max_tokens=5&page=tokenizer",
        "    for key, value in settings.items():\n        token=config.token, key=lambda run: run.key",
        'say "my password: hunter2" to the model',
        "The password: Tr0ub4dor&3 of the story, password = correct1horse",
        "hub_token=settings.token1, access_token=the_token_1(x), api_key: /home/me/key1 and --set access_token=KEY",
        "run_key=0123456789ab, cache_key: 9f86d081884c7d65, data_token=sigmoid",
        "eos_token: im_end_2",
        "Cookie: a small cake; basic authentication, basic settings; bearer of good news",
        "postgresql://host:5432/db?options=a@b",
        "as sqlite:///optuna.db or postgresql+psycopg2://user@host/name, ssh://git@github.com/x/y",
        "https://host/a@b, https://host:5000/x?mail=me@example.org",
        # Names that begin as a secret does.
        "pip install hf_transfer",
        "study sk-learn-comparison-of-losses",
        "Bearer authentication is needed",
        "Basic Authentication failed",
        "postgresql://host:5432/db?user=me",
    ],
)
def test_what_is_no_secret_is_left_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_secrets_of_the_environment_are_known_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:battery%20staple@db/x")
    monkeypatch.setenv("SOME_KEY", "yes")
    text = "failed with correct horse, battery staple, battery%20staple; yes"
    assert redact(text) == f"failed with {REDACTED}, {REDACTED}, {REDACTED}; yes"


@pytest.mark.parametrize(
    "name",
    ["PGPASSWORD", "githubToken", "AWS_SECRET_ACCESS_KEY", "OPENAI_APIKEY", "API_KEY_2", "MYSQL_PWD", "DB_PASS",
     "SSHPASS", "DBPWD", "accessToken", "clientSecret", "AccountKey", "REDISCLI_AUTH", "SESSION_COOKIE",
     "AZURE_DEVOPS_EXT_PAT", "LDAP_BIND_PW", "HTTP_AUTHORIZATION", "SLACK_WEBHOOK_URL"],
)  # fmt: skip
def test_variables_with_secrets_are_known_however_their_names_are_written(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "correct horse")
    assert redact("with correct horse") == f"with {REDACTED}"


@pytest.mark.parametrize(
    "name",
    [
        "TOKEN_PATH",
        "CREDENTIALS_FILE",
        "token_level",
        "PWD",
        "OLDPWD",
        "KEYBOARD",
        "max_tokens",
        "GIT_ASKPASS",
        "PGPASSFILE",
        "PATTERN",
        "LD_PRELOAD_PATH",
    ],
)
def test_a_variable_about_a_secret_is_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "/home/me/somewhere")
    assert redact("in /home/me/somewhere") == "in /home/me/somewhere"


@pytest.mark.parametrize(
    ("password", "quoted", "left"),
    [
        ("battery%20staple", "for me (battery staple)", f"for me ({REDACTED})"),
        ("battery%20staple", "db?secret is battery+staple", f"db?secret is {REDACTED}"),
        ("p%C3%A4ss%22word", r'as "p\u00e4ss\"word"', f'as "{REDACTED}"'),
        ("Sup3r/Secret", "cannot use postgresql://me:Sup3r/Secret@db", f"cannot use postgresql://me:{REDACTED}@db"),
        ("Sup3r#Secret", "Port could not be cast as 'Sup3r'", f"Port could not be cast as '{REDACTED}'"),
        ("Sup3r?Secret", "no such host: 'Secret'", f"no such host: '{REDACTED}'"),
        ("a/b", "cannot use postgresql://me:a/b@db", f"cannot use postgresql://{REDACTED}@db"),
        ("correct@horse-1", "no host correct@horse-1", f"no host {REDACTED}"),
        ("tr&<b>le-one", "<td>tr&amp;&lt;b&gt;le-one</td>", f"<td>{REDACTED}</td>"),
    ],
)
def test_a_password_of_an_address_is_known_decoded_escaped_and_in_the_parts_that_errors_quote(
    password: str, quoted: str, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:{password}@db/x")
    assert redact(quoted) == left


@pytest.mark.parametrize(
    "address", ["https://host:5000/a@b", "https://host/learning_rate@x", "file:///learning_rate@b"]
)
def test_an_at_sign_in_a_path_makes_no_login(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", address)
    assert redact(f"host, 5000/a and learning_rate at {address}") == f"host, 5000/a and learning_rate at {address}"


@pytest.mark.parametrize(
    ("value", "text", "left"),
    [
        ("hunter2", "with hunter2, not hunter22", f"with {REDACTED}, not hunter22"),
        ("s3cr!", "is s3cr! here", f"is {REDACTED} here"),
        ("hUnTe", "is hUnTe here", f"is {REDACTED} here"),
        ("swordfish", "the swordfish of swordfishes", f"the {REDACTED} of swordfishes"),
        # Words and numbers of everybody's are told by what is around them.
        ("token", "a token is a token; token='token'", f"a token is a token; token='{REDACTED}'"),
        (
            "12345",
            "12345 runs, budget.trials=12345, password=12345",
            f"12345 runs, budget.trials=12345, password={REDACTED}",
        ),
        ("postgres", "postgresql: postgres; PGPASSWORD=postgres", f"postgresql: postgres; PGPASSWORD={REDACTED}"),
        ("password", "the password of x:password@h", f"the password of x:{REDACTED}@h"),
        ("tiny", "tiny 'tiny' password=tiny", "tiny 'tiny' password=tiny"),
    ],
)
def test_a_weak_secret_of_a_variable_is_told_from_words(
    value: str, text: str, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASS", value)
    assert redact(text) == left


@pytest.mark.parametrize(
    ("variable", "secret"),
    [
        ("DefaultEndpointsProtocol=https;AccountName=me;AccountKey=Ab1cdEfg==;EndpointSuffix=x", "Ab1cdEfg=="),
        ("host=db password=swordfish user=me", "swordfish"),
        ("postgresql://me:it's a secret@db/x", "it's a secret"),
        ("postgresql://me:it%27s%2fa%20secret@db/x", "it%27s%2fa%20secret"),
        ("postgresql://me:it%27s%2fa%20secret@db/x", "it's/a secret"),
        ("postgresql://me:it%27s%2fa%20secret@db/x", "it%27s%2Fa+secret"),
        ("postgresql://me:Sup3r/Se@cret1@db/x", "Sup3r/Se"),
    ],
)
def test_what_any_variable_holds_of_secrets_is_known(
    variable: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", variable)
    assert redact(f"with {secret} failed") == f"with {REDACTED} failed"


@pytest.mark.parametrize(
    "address",
    ["postgresql://me:Sup3r%2fSecret@h:1/x", "mysql+pymysql://u:a:b:c-long@h/x", "redis://:only-this@h/0"],
)
def test_what_sqlalchemy_takes_for_the_password_is_known(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", address)
    password = str(sqlalchemy.make_url(address).password)
    assert redact(f"with {password} failed") == f"with {REDACTED} failed"
    assert redact(repr(sqlalchemy.make_url(address).render_as_string(hide_password=False))).count(REDACTED) == 1


def test_what_libraries_sign_in_with_from_files_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN_PATH", "HF_HOME", "XDG_CACHE_HOME", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache/huggingface").mkdir(parents=True)
    (tmp_path / ".cache/huggingface/token").write_text("kept-by-hf-login\n")
    (tmp_path / ".netrc").write_text("machine example.org\n  login me\n  password kept-in-netrc\n")
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow/credentials").write_text("[mlflow]\nmlflow_tracking_password = kept-by-mlflow\n")
    text = "kept-by-hf-login kept-in-netrc kept-by-mlflow"
    assert redact(text) == f"{REDACTED} {REDACTED} {REDACTED}"
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    assert redact(text) == text


def test_secrets_of_settings_are_known_by_value_once_they_are_noted() -> None:
    note_command([])
    base = {"model_init_kwargs": {"token": "plain words of mine", "n": 1}, "hub_token": "hunter2", "num_token": 5}
    note_settings({"base": base, "variants": {"token": {"base": {"password": 20261128}}, "key": {}}})
    assert redact("401 for plain words of mine, hunter2, hunter22 and 20261128") == (
        f"401 for {REDACTED}, {REDACTED}, hunter22 and {REDACTED}"
    )
    note_command([])
    assert redact("plain words of mine") == "plain words of mine"


def test_names_that_a_study_gives_are_no_settings() -> None:
    note_command([])
    names = {"token": {"loss_type": ["learning_rate"]}, "key": {"points": [{"key": "sentence-level"}]}}
    study = {"variants": names, "scenarios": {"secret": {"trials": 2}}, "space": {"key": {"values": ["plain-words"]}}}
    note_settings(study)
    assert redact("learning_rate, sentence-level, plain-words") == "learning_rate, sentence-level, plain-words"
    assert redact(study) == study


def test_a_short_secret_is_told_from_words_by_its_digit_or_by_its_quotes() -> None:
    note_command(["run", "s.yaml", "--set", "base.hub_token=base", "--set", "x.password=r2d2"])
    assert redact("base.hub_token: 'base' must be r2d2") == f"base.hub_token: '{REDACTED}' must be {REDACTED}"
    assert redact("the base of r2d22") == "the base of r2d22"
    note_command([])


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "base.hub_token=on the command line"],
        ["--set=base.hub_token=on the command line"],
        ["--set", "hub_token=on the command line"],
        ["--set", "base.hub-token:'on the command line'"],
        ["--hub-token", "on the command line"],
        ["--set", "base.hub_token", "on the command line"],
        ["--storage", "postgresql://me:on%20the%20command%20line@db/x"],
        ["--storage", "postgresql://db/x?password=on+the+command+line"],
    ],
)
def test_secrets_among_the_words_of_a_command_are_known(words: list[str]) -> None:
    note_command(["run", "study.yaml", *words])
    assert redact("study.yaml: on the command line") == f"study.yaml: {REDACTED}"
    note_command([])


def test_all_that_is_printed_is_without_secrets_and_acts_on_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever prints it, a library too: the stream itself takes it out. Of rich its own marks stay."""
    monkeypatch.setenv("MY_TOKEN", "correct horse")
    before = {name: io.TextIOWrapper(io.BytesIO(), "utf-8") for name in ("stdout", "stderr")}
    for name, stream in before.items():
        monkeypatch.setattr(sys, name, stream)
    redact_output()
    for name, stream in before.items():
        printed: Any = getattr(sys, name)
        printed.write("\x1b]52;c;QQ==\x07\u202eleft\rover correct horse\n")
        printed.rich_proxied_file.write("\x1b[1m\x1b]52;c;QQ==\x07\u202ecorrect horse\x1b[0m")
        printed.flush()
        assert stream.buffer.getvalue().decode() == (
            f"\\x1b]52;c;QQ==\\x07\\u202eleft\nover {REDACTED}\n\x1b[1m\\x1b]52;c;QQ==\\x07\\u202e{REDACTED}\x1b[0m"
        )


def test_mappings_are_redacted_by_name_at_any_depth() -> None:
    given = {"hub_token": "x", "a": [{"password": 5, "beta": 0.1}], "token": None, "t": (HF, 1)}
    assert redact(given) == {
        "hub_token": REDACTED,
        "a": [{"password": REDACTED, "beta": 0.1}],
        "token": None,
        "t": (REDACTED, 1),
    }
    assert redact({"key": "0123", "x": HF}, by_name=False) == {"key": "0123", "x": REDACTED}


def test_numbers_of_tokens_and_special_tokens_are_no_secrets() -> None:
    given = {"pad_token_id": 0, "image_token": "<image>", "token_level": "word", "use_auth_token": True, "key": 3}
    assert redact(given) == given


@pytest.mark.parametrize("name", METRICS)
def test_no_number_that_is_measured_is_a_secret_however_small(name: str) -> None:
    text = json.dumps({name: 1.9540365136756e-05})
    assert redact(text) == text


def test_json_stays_json() -> None:
    given = {"token": 'a"b', "x": {"api_key": "c", "n": None}, "list": ["password: d", "https://u:p@h/"]}
    assert json.loads(redact(json.dumps(redact(given)))) == redact(given)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("hub_token", True),
        ("HF_TOKEN", True),
        ("api-key", True),
        ("model_init_kwargs.token", True),
        ("max_new_tokens", False),
        ("pad_token", False),
        ("beta", False),
    ],
)
def test_secrets_are_known_by_the_words_of_their_name(name: str, secret: bool) -> None:
    assert is_secret(name) is secret


@pytest.mark.parametrize(
    "piece",
    [
        "y",
        "y1",
        "-eyJ",
        "eyJaaaaaaaaaaa.",
        "?token",
        "?a",
        "://",
        "://a",
        "a@",
        "a=",
        "a='",
        'a="',
        "a: ",
        " ",
        "-----BEGIN ",
        "sk-",
        "hf_a",
        "Bearer ",
        "://a:",
        "?a=",
        ";key=",
        "token=",
        "access_token: ",
        "password=a1",
        "Authorization: Basic ",
        "cookie: a=",
        "Basic aaaaaaaa",
        "a://",
        "a://b:c/",
        "a.",
        "a-",
        "Az0",
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    for text in (piece * (400_000 // len(piece)), "x://?token=" + piece * (400_000 // len(piece))):
        with in_time():
            redact(text)
