"""What is read of a YAML file that nobody vouches for, and what is refused and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.loading.yaml_reader import DEEPEST, MOST_BYTES, MOST_KEYS, UnusableYaml, parse, read_text


def doubling(levels: int) -> str:
    """Aliases that stand for 2^levels values."""
    lines = ["l0: &l0 [x]", *(f"l{i}: &l{i} [*l{i - 1}, *l{i - 1}]" for i in range(1, levels))]
    return "\n".join(lines)


def test_plain_values_anchors_and_merge_keys_are_read() -> None:
    text = "a: &a {x: 1, y: 2.5}\nb: {<<: *a, y: null}\nc: [*a, true, 'text', 1e-5]\nd: -9223372036854775807\n"
    a = {"x": 1, "y": 2.5}
    assert parse(text) == {"a": a, "b": {"x": 1, "y": None}, "c": [a, True, "text", "1e-5"], "d": -(2**63 - 1)}
    assert len(parse(doubling(8))) == 8


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (doubling(40), "once aliases"),
        ("a: [" + "1, " * 30_000 + "]", "more than 20000 keys and values"),
        ("a: &a [*a]", "within the value that it stands for"),
        ("a: " + "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "levels deep"),
        ("\n".join(f"k{i}: 1" for i in range(MOST_KEYS + 1)), "at most are read"),
        ("a: !!python/object/apply:os.system ['touch x']", "leave tags"),
        ("a: !own x", "of the kind '!own'"),
        ("a: 2024-01-01", "is read as a date or time: put text in quotes"),
        ("a: !!int x", "'x' cannot be read as int"),
        ("a: 9223372036854775808", "larger than a whole number of 64 bits"),
        ("a: " + "9" * 5000, "cannot be read as int"),
        ('a: "\\ud800"', "half of a character"),
        ('a: "\\e[31m"', "a control character"),
        ("a: 1\na: 2", "a: stands twice, at lines 1 and 2"),
        ("a: {b: 1, b: 2}", "a.b: stands twice"),
        ("a: [", "is not YAML at line"),
        ("a:\n\tb: 1", "indent with spaces"),
        ("a: 1\n--- \nb: 2", "is not YAML at line"),
        ("a: \x00", "cannot stand in it"),
    ],
)
def test_what_no_study_needs_is_refused_with_its_place(text: str, told: str) -> None:
    with pytest.raises(UnusableYaml) as refused:
        parse(text)
    assert told in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_file_is_read_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    for content in (b"a: \xc3\xa9", b"\xef\xbb\xbfa: \xc3\xa9"):
        file.write_bytes(content)
        assert parse(read_text(file)) == {"a": "\u00e9"}


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"#" * (MOST_BYTES + 1), "larger than 512 KiB"), (b"a: \xff", "byte 3 is 0xff): save it as UTF-8")],
)
def test_a_file_that_is_too_long_or_no_text_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    with pytest.raises(UnusableYaml) as refused:
        read_text(file)
    assert told in str(refused.value)
    with pytest.raises(UnusableYaml, match="cannot be read: No such file"):
        read_text(tmp_path / "missing.yaml")
