"""Strategies for data files that somebody got wrong: rows with things missing, changed, broken and blown up."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from hypothesis import strategies as st

_TEXTS = [
    "Once upon a time", " there was a girl.", " there was a dog.", "The sky is", " blue", " green",
    "\u00e9\u4e2d\U0001f600", "a\u0301", "tab\tbed", "two\nlines", "\u2028line", "\u202eright", "x" * 300,
    "word " * 400, "</s>", "<s>", "<|im_start|>user", "{{ x }}", "{% for %}", "NaN", "null",
]  # fmt: skip
_ODD_TEXTS: list[Any] = [
    "", " ", "\n", "\u200b", "\ud800", "x\udfff", "\x00", "a\x00b", "\ufeff", "\ufffe", None, 0, 1.5, True, [], {},
    ["a"], [1], float("nan"), [{}], [None], "word " * 100_000,
]  # fmt: skip
_ROLES = ["user", "assistant", "system", "tool", "", "critic", None, 1]


def _messages(draw: st.DrawFn) -> list[Any]:
    contents = st.sampled_from(_TEXTS) | st.sampled_from(_ODD_TEXTS[:12])
    message = st.fixed_dictionaries(
        {"role": st.sampled_from(_ROLES[:2]) | st.sampled_from(_ROLES), "content": contents},
        optional={"name": st.just("x"), "tool_calls": st.just([{"a": 1}]), "thinking": st.just("hm")},
    )
    return draw(st.lists(message, min_size=0, max_size=3))


def _side(draw: st.DrawFn, conversational: bool, odd: bool) -> Any:
    if odd and draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(_ODD_TEXTS))
    if conversational:
        return _messages(draw) if odd else [{"role": "assistant", "content": draw(st.sampled_from(_TEXTS))}]
    return draw(st.sampled_from(_TEXTS) | st.text(min_size=1, max_size=30))


@st.composite
def rows(draw: st.DrawFn) -> list[Any]:
    """Rows of a preference set, sound ones and others."""
    conversational, odd = draw(st.booleans()), draw(st.booleans())
    prompt = draw(st.sampled_from(["none", "same", "own", "own", "own"]))
    made: list[Any] = []
    for _ in range(draw(st.integers(1, 8))):
        kind = conversational if not (odd and draw(st.integers(0, 6)) == 0) else not conversational
        row: dict[str, Any] = {side: _side(draw, kind, odd) for side in ("chosen", "rejected")}
        if prompt != "none":
            row["prompt"] = "Once" if prompt == "same" and not kind else _side(draw, kind, odd)
        if odd:
            match draw(st.integers(0, 12)):
                case 0:
                    row.pop(draw(st.sampled_from(sorted(row))))
                case 1:
                    name = draw(st.sampled_from(["tools", "images", "extra", "", "chosen ", "Chosen"]))
                    row[name] = draw(st.sampled_from(_ODD_TEXTS))
                case 2:
                    row = {f"{name}_": value for name, value in row.items()}
        made.append(draw(st.sampled_from([None, 1, "x", [], [row]])) if odd and draw(st.integers(0, 15)) == 0 else row)
    return made


def _as_jsonl(made: list[Any], draw: st.DrawFn) -> bytes:
    escaped = draw(st.booleans())
    line_end = draw(st.sampled_from(["\n", "\n", "\n", "\r\n", "\n\n"]))
    text = line_end.join(json.dumps(row, ensure_ascii=escaped) for row in made)
    return text.encode("utf-8", "surrogatepass")


def _as_json(made: list[Any], draw: st.DrawFn) -> bytes:
    whole = draw(st.sampled_from([made, made, made, {"data": made}, made[0]]))
    return json.dumps(whole, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


def _as_csv(made: list[Any], draw: st.DrawFn) -> bytes:
    out = io.StringIO()
    objects = [row for row in made if isinstance(row, dict)]
    names = list(dict.fromkeys(key for row in objects for key in row)) or ["prompt", "chosen"]
    writer = csv.writer(out, delimiter=draw(st.sampled_from([",", ",", ",", ";", "\t"])))
    if draw(st.integers(0, 9)):
        writer.writerow(names)
    for row in objects:
        writer.writerow([row.get(name) for name in names][: draw(st.sampled_from([9, 9, 9, 1]))])
    return out.getvalue().encode("utf-8", "surrogatepass")


def _as_parquet(made: list[Any], draw: st.DrawFn) -> bytes:
    out = io.BytesIO()
    try:
        table = pa.Table.from_pylist([row for row in made if isinstance(row, dict)])
        pyarrow.parquet.write_table(table, out)
    except (pa.ArrowException, ValueError, TypeError, OverflowError, UnicodeError):
        return b"PAR1"  # columns of mixed types, which no Parquet file holds
    return out.getvalue()


_WRITERS = {".jsonl": _as_jsonl, ".json": _as_json, ".csv": _as_csv, ".parquet": _as_parquet}
_ODD_FILES = [
    b"", b"\n", b" ", b"\x00", b"[]", b"{}", b"null", b"1", b"[", b"[[[", b"[" * 200_000,
    b"[" * 200_000 + b"]" * 200_000, b'{"a":' * 100_000, b"\xff\xfe\x00", b"\xef\xbb\xbf", b"PAR1",
    b"PAR1" + b"\x00" * 100 + b"PAR1", b"PAR1\x15\x04\x15\xff\xff\xff\x7f\x00\x00PAR1", b"\x89PNG", b"\x1f\x8b\x08\x00",
    bytes(range(256)), b"prompt,chosen,rejected\n", b'"', b"a,b\n" * 1000, b"x" * 300_000,
    b'{"prompt": "' + b"a" * 300_000, b"prompt,chosen,rejected\n" + b"a," * 200_000,
    b'prompt,chosen,rejected\na,"' + b"b" * 200_000, b'{"chosen": ' + b"9" * 5000 + b', "rejected": 1}',
    b'{"chosen": "a", "rejected": "b", "prompt": "c"}\n' * 3,
    b'\xef\xbb\xbf{"chosen": "a", "rejected": "b", "prompt": "c"}',
]  # fmt: skip


@st.composite
def data_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """The name and content of a file that is given as preference pairs."""
    ending = draw(st.sampled_from([*_WRITERS, ".JSONL"]))
    if draw(st.integers(0, 9)) == 0:
        return f"pairs{ending}", draw(st.sampled_from(_ODD_FILES) | st.binary(max_size=200))
    content = _WRITERS[ending.lower()](draw(rows()), draw)
    match draw(st.sampled_from(["whole"] * 7 + ["cut", "flip", "bom", "utf-16", "latin-1", "junk"])):
        case "cut":
            content = content[: draw(st.integers(0, len(content)))]
        case "flip":
            place = draw(st.integers(0, max(len(content) - 1, 0)))
            content = content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :]
        case "bom":
            content = b"\xef\xbb\xbf" + content
        case "utf-16" | "latin-1" as coding:
            content = content.decode("utf-8", "replace").encode(coding, "replace")
        case "junk":
            content += draw(st.binary(min_size=1, max_size=20))
    return f"pairs{ending}", content
