"""Strategies for study files that somebody got wrong: shipped ones with things moved, broken and blown up."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from hypothesis import strategies as st

from studies.spec import shipped_studies

SHIPPED = [(path.name, path.read_text(encoding="utf-8")) for path in shipped_studies().values()]

_ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 10**6, 10**12, 10**30, 10**400, 2**63, -(2**63) - 1, 0.0, -0.0, 1e-320, 1e308,
    -1e308, float("nan"), float("inf"), float("-inf"), "", " ", "nan", "inf", "-inf", "1e400", "1e-5", "0x1F", "1_0",
    "x" * 5000, "\u0130", "e\u0301", "\U0001f600", "\u202egnp.exe", "[/bold]", "[red]x[/blue]", "{x}", "%s%n",
    "../../etc/passwd", "/etc/passwd", "~", "~nobody-there/x", "..", ".", "a/b/c", "a\nb", "'; drop table runs; --",
    "<script>alert(1)</script>", "CON", "x" * 300, "\u00b2", "\u0664", "null", "on", [], {}, [[]], [None],
    [1, "a", None], [0.1] * 2000, {"low": 1}, {"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True},
    {"low": 10**400, "high": 1}, {"low": -(10**30), "high": 10**30, "type": "int"}, {"values": []}, {"values": [1, 1]},
    {"values": list(range(3000))}, {"values": [[1], {"a": 2}]}, {"values": ["nan", float("nan")]}, {"type": "simplex"},
    {"type": "simplex", "low": 0}, {"type": ["float"]}, {"type": {}}, {"min": "nan", "max": "inf"},
    {"low": "nan", "high": "inf"}, {"a": {"b": {"c": {"d": {}}}}}, {1: 2}, {None: None}, {True: False}, {"": ""},
    {"x": {"": None}}, {"y" * 3000: 1}, {f"k{i}": {} for i in range(300)},
    {f"sigmoid{i}": {"loss_type": "sigmoid"} for i in range(60)},
    {f"lr_{i}": {"low": 0.0, "high": 1.0} for i in range(40)},
]  # fmt: skip

_ODD_KEYS: list[Any] = [
    "", " ", "study", "base", "space", "variants", "data", "loss_type", "loss_weights", "beta", "learning_rate", "seed",
    "trust_remote_code", "notices", "judge", "evaluation", "max_length", "points", "values", "low", "type", "__class__",
    "model_config", "x.y", "..", "../x", "/x", "a b", "x" * 1000, "\u00e9", "\u202e", "[red]", None, True, 1, 1.5, -1,
]  # fmt: skip

_LINES = [
    "\tstudy: tabs", "study: twice", "base: twice", "variants: {sigmoid: {}, sigmoid: {}}", "? [a, b]\n: c",
    "? {a: b}\n: c", "<<: *nowhere", "<<: [1]", "<<: 1", "a: &a [*a]", "a: &a {b: *a}", "a: &a {<<: *a}", "- list",
    "---", "...", "--- \nstudy: second", "%YAML 9.9", "%TAG ! x", "@", "`", "key: 'open", 'key: "open', "key: {open",
    "key: [open", "x: !!python/object/apply:os.system ['touch pwned']", "x: !!python/name:os.system",
    "x: !!python/object:object {}", "x: !!set {a, b}", "x: !!omap [a: 1]", "x: !!binary |\n  !!!",
    "x: !!binary aGVsbG8=", "x: !!int x", "x: !!float x", "x: !!bool x", "x: !!null x", "x: !!timestamp x",
    "x: !unknown y", "x: 2024-13-45", "x: 2024-01-01", "x: 1:99:99", "x: 0b", "x: 0o9", "x: " + "9" * 5000,
    "x: 1" + "0" * 400, "x: 1." + "9" * 5000, "x: .nan", "x: -.inf", 'x: "\\ud800"', 'x: "\\0"', 'x: "\\e[31mred"',
    'x: "\\u202e"', 'x: "\\x85"', "x: \x07", "x: \x85", "x: \ufeff", "x: \ufffe", "x: " + "[" * 200 + "]" * 200,
    "x: " + "[" * 5000, "x: " + "{a: " * 100 + "1" + "}" * 100, "\n".join("  " * i + "a:" for i in range(200)),
    "x: " + "- " * 500, "x: " + "y" * 100_000, "x: [" + "1, " * 30_000 + "]",
    "\n".join(f"k{i}: {i}" for i in range(3000)), "#" * 10_000,
]  # fmt: skip


def laughs(depth: int, width: int) -> str:
    """Aliases that double, or worse, at every level."""
    lines = ["l0: &l0 [lol]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * width)}]" for i in range(1, depth)]
    return "\n".join(lines)


def merging_laughs(depth: int, width: int) -> str:
    """The same with merge keys."""
    lines = ["m0: &m0 {a: 1}"]
    lines += [f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * width)}]}}" for i in range(1, depth)]
    return "\n".join(lines)


_ODD_FILES: list[bytes] = [
    b"", b"\n", b"#", b"null", b"[]", b"{}", b"1", b"study", b"---", b"--- {}\n--- {}", b"\x00", b"\xff\xfe",
    b"\xef\xbb\xbf", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), b"PK\x03\x04", b"\x80\x04\x95", bytes(range(256)) * 40,
    b"study: x\n" * 200_000, b"x: " + b"y" * 10_000_000, b"#" * 10_000_000, b"- " * 500_000, laughs(30, 2).encode(),
    laughs(9, 9).encode(), laughs(300, 1).encode(), merging_laughs(30, 2).encode(), merging_laughs(8, 8).encode(),
    (laughs(12, 2) + "\nstudy: x\nbase: {}\nvariants: *l11").encode(),
]  # fmt: skip


def paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a study, the root left out."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def _parent(root: Any, path: tuple[Any, ...]) -> Any:
    for step in path[:-1]:
        root = root[step]
    return root


def _drop(root: Any, path: tuple[Any, ...], draw: st.DrawFn) -> None:
    del _parent(root, path)[path[-1]]


def _replace(root: Any, path: tuple[Any, ...], draw: st.DrawFn) -> None:
    _parent(root, path)[path[-1]] = copy.deepcopy(draw(st.sampled_from(_ODD_VALUES)))


def _retype(root: Any, path: tuple[Any, ...], draw: st.DrawFn) -> None:
    parent, key = _parent(root, path), path[-1]
    value = parent[key]
    parent[key] = draw(st.sampled_from([str(value), [value], {"value": value}, [value, value]]))


def _rename(root: Any, path: tuple[Any, ...], draw: st.DrawFn) -> None:
    parent = _parent(root, path)
    if isinstance(parent, dict):
        parent[draw(st.sampled_from(_ODD_KEYS))] = parent.pop(path[-1])


def _add(root: Any, path: tuple[Any, ...], draw: st.DrawFn) -> None:
    parent = _parent(root, path)
    if isinstance(parent, dict):
        parent[draw(st.sampled_from(_ODD_KEYS))] = copy.deepcopy(draw(st.sampled_from(_ODD_VALUES)))


def _scale(root: Any, path: tuple[Any, ...], draw: st.DrawFn) -> None:
    parent, key = _parent(root, path), path[-1]
    if isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        parent[key] = draw(st.sampled_from([-1, 0, 1e9, 1e-9, 10**9, float("nan")])) * parent[key]


_CHANGES: list[Callable[[Any, tuple[Any, ...], st.DrawFn], None]] = [_drop, _replace, _retype, _rename, _add, _scale]


def _recoded(text: str, draw: st.DrawFn) -> bytes:
    """The text as the bytes of a file, mostly UTF-8 and sometimes not, or damaged."""
    kind = draw(st.sampled_from(["utf-8"] * 12 + ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1", "cp1252"]))
    content = text.encode(kind, "replace")
    match draw(st.sampled_from(["whole"] * 8 + ["cut", "flip", "crlf", "cr", "tabs"])):
        case "cut":
            return content[: draw(st.integers(0, len(content)))]
        case "flip":
            place = draw(st.integers(0, max(len(content) - 1, 0)))
            return content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :]
        case "crlf":
            return content.replace(b"\n", b"\r\n")
        case "cr":
            return content.replace(b"\n", b"\r")
        case "tabs":
            return content.replace(b"  ", b"\t")
    return content


@st.composite
def study_files(draw: st.DrawFn) -> bytes:
    """The content of a file that is given as a study."""
    if draw(st.integers(0, 14)) == 0:
        return draw(st.sampled_from(_ODD_FILES) | st.binary(max_size=300))
    _, text = draw(st.sampled_from(SHIPPED))
    if draw(st.booleans()):
        root = yaml.safe_load(text)
        for _ in range(draw(st.integers(1, 4))):
            places = list(paths(root))
            if places:
                draw(st.sampled_from(_CHANGES))(root, draw(st.sampled_from(places)), draw)
        text = yaml.safe_dump(root, sort_keys=False, allow_unicode=draw(st.booleans()))
    else:
        lines = text.split("\n")
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(lines)))
            indent = draw(st.sampled_from(["", "", "  ", "    "]))
            lines.insert(at, indent + draw(st.sampled_from(_LINES) | st.text(max_size=40)))
        text = "\n".join(lines)
    return _recoded(text, draw)


@st.composite
def settings_of_a_study(draw: st.DrawFn) -> list[str]:
    """Values of `--set`."""
    keys = [
        "base.max_steps", "base", "variants.sigmoid", "variants", "data.path", "space.beta.low", "runs.seeds.0",
        "runs.blocks", "budget.trials", "output.folder", "study", "x", "sampler_seed", "resources.workers",
        "runs.seeds", "budget.wall_clock", "", ".", "a..b", "base.x.y.z", "runs.seeds.\u00b2",
        "base.model_init_kwargs.a.b", "variants.sigmoid.points.0.beta", "\u0000", "notices.0",
    ]  # fmt: skip
    values = [
        "1", "1000000000", "-1", "1000000000000000000000000", "", "x", "[", "{a: b", "nan", ".inf",
        "!!python/name:os.system", "9" * 5000, "*a", "&a [*a]", "[[[[[[1]]]]]]", "~", "/", "../x", "2024-01-01",
        "\ud800", "\x1b[31m", "x" * 5000, "1e400", "{low: 1, high: 0}",
    ]  # fmt: skip
    pairs = st.tuples(st.sampled_from(keys) | st.text(max_size=8), st.sampled_from(values) | st.text(max_size=8))
    written = pairs.map(lambda pair: "=".join(pair)) | st.text(max_size=8)
    return draw(st.lists(written, min_size=1, max_size=3))
