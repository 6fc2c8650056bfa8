"""What is taken out of text and mappings, and what is left in."""

from __future__ import annotations

import json

import pytest

from studies.redact import REDACTED, is_secret, redact
from tests.robustness.harness import in_time

HF = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"
FORMS = [
    HF,
    "ghp_" + "0" * 36,
    "github_pat_" + "A1" * 20,
    "sk-proj-" + "a1B2" * 8,
    "sk-ant-api03-" + "x" * 40,
    "AKIA" + "ABCDEFGH12345678",
    "glpat-" + "x" * 20,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
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
        ("password: 'hush hush'", f"password: '{REDACTED}'"),
        ('{"api_key": "hush", "n": 1}', f'{{"api_key": "{REDACTED}", "n": 1}}'),
        ("--api-key=hush x", f"--api-key={REDACTED} x"),
        ("MY_SECRET=hush", f"MY_SECRET={REDACTED}"),
    ],
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


def test_mappings_are_redacted_by_name_at_any_depth() -> None:
    given = {"hub_token": "x", "a": [{"password": 5, "beta": 0.1}], "token": None, "t": (HF, 1)}
    assert redact(given) == {
        "hub_token": REDACTED,
        "a": [{"password": REDACTED, "beta": 0.1}],
        "token": None,
        "t": (REDACTED, 1),
    }
    assert redact({"key": "0123", "x": HF}, by_name=False) == {"key": "0123", "x": REDACTED}


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
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    for text in (piece * (200_000 // len(piece)), "x://?token=" + piece * (200_000 // len(piece))):
        with in_time():
            redact(text)
