"""The comparison as text for a screen, Markdown, HTML, CSV or JSON; computes nothing."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final, Literal

from dashboards.analysis.speed import Timed
from dashboards.controls.expectations import Finding
from dashboards.guide.verdicts import Verdict
from dashboards.tables.cells import LEFT, WORDS, Cells, claim_cells, guide_cells
from dashboards.tables.comparison import Comparison, Row
from dashboards.tables.grids import Grid, grid_cells, listed
from dashboards.tables.sections import sections, short_sections
from dashboards.tables.short import by_width, notes_without
from studies.spec import Objective
from studies.text.as_json import as_json
from studies.text.visible import visible

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Format = Literal["text", "markdown", "csv", "json", "html"]
FORMATS: tuple[Format, ...] = ("text", "markdown", "csv", "json", "html")
# Width of a text table where nobody says how wide the screen is: of all that was measured, and of the short table, of
# which no line is longer on any screen.
WIDE, READABLE = 170, 100
NAMING = ("KL at most", "Loss", "Control", "Scenario")
WRAPPED, GAP = 20, 2
LONGEST_NAME = 32  # what is longer may be broken anywhere, where there is no room for it
# What a spreadsheet takes for the beginning of a formula; also as full-width signs, and behind what it skips.
_FORMULA: Final = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
# What Markdown acts on in words that are not ours: its own escapes, tags, entities and links.
_MARKDOWN: Final = (
    (re.compile(r"\\(?=[!-/:-@\[-`{-~])"), r"\\\\"),
    (re.compile(r"&(?=#?\w+;)"), "&amp;"),
    (re.compile(r"<(?=[A-Za-z/!?])"), "&lt;"),
    (re.compile(r"\](?=[\[(:])"), r"\\]"),
)


def render(table: Comparison, format: Format = "text", width: int | None = None, *, everything: bool = True) -> str:
    """The comparison in a format. JSON holds all numbers and the ids of their runs, CSV the numbers of the rows.

    `width`: of the screen in characters, for text alone. `everything`: what stands under the answer and its table too;
    JSON and CSV have it always.
    """
    match format:
        case "json":
            return as_json(table.schema, table, indent=2) + "\n"
        case "csv":
            return _csv(table.rows) + _controls_csv(table.controls)
        case "markdown":
            return _markdown(table, everything)
        case "html":
            return _html(table, everything)
        case "text":
            return _text(table, width, everything)


def render_claims(verdicts: Sequence[Verdict], format: Format = "text", width: int | None = None) -> str:
    """The guide's own table with a verdict on each word, and why of each claim; as Markdown or text."""
    if format == "markdown":
        return "\n\n".join(map(_markdown_table, (guide_cells(verdicts), claim_cells(verdicts)))) + "\n"
    return _printed([_rich_table(_plain(guide_cells(verdicts))), "", *_claims(verdicts)], width or READABLE)


def render_grids(found: Sequence[Grid], objective: Objective, format: Format = "text", width: int | None = None) -> str:
    """Grids of two knobs, one a stratum, in a format."""
    if format == "json":
        grids = listed(found)
        return as_json(grids.schema, grids, indent=2) + "\n"
    if format == "csv":
        return _grids_csv(found)
    note = f"Mean {objective.metric} over data draws; * the best of them, so too good on average; ! trials that failed."
    titled = [(f"{g.variant}, {g.scenario}", grid_cells(g, objective.direction)) for g in found]
    if format == "markdown":
        parts = [f"{_markdown_words(title)}\n\n{_markdown_table(cells)}\n" for title, cells in titled]
        return "\n".join(parts) + f"\n- {note}\n"
    if format == "html":
        parts = [f"<h2>{escape(title)}</h2>{html_table(cells, [{}] * len(cells.rows))}" for title, cells in titled]
        return _page(objective.metric, "".join(parts) + f"<p>{escape(note)}</p>")
    tables = [(title, _rich_table(_plain(cells))) for title, cells in titled]
    return _printed([item for pair in tables for item in pair] + [note], width or WIDE)


def _grids_csv(found: Sequence[Grid]) -> str:
    """One cell a line."""
    lines: list[Sequence[Any]] = [
        ["variant", "scenario", "row_knob", "row", "column_knob", "column", "mean", "low", "high", "blocks", "trials",
         "failed"]
    ]  # fmt: skip
    for g in found:
        for (row, column), cell in g.cells.items():
            e = cell.value
            mean = (e.value, e.low, e.high, e.blocks) if e else [None] * 4
            lines.append([g.variant, g.scenario, g.rows, row, g.columns, column, *mean, cell.trials, cell.failed])
    return _csv_text(lines)


# ---- text ---------------------------------------------------------------------------------------------------------


def _text(table: Comparison, width: int | None, everything: bool) -> str:
    """The short tables and the answers. With everything the long ones above them, on a narrow screen in several tables
    under each other, and the verdicts that the study can give.
    """
    whole = _printed(_all_text(table, width or WIDE), width or WIDE) if everything else ""
    narrow = min(width or READABLE, READABLE)
    # Whole lines, as other commands print them, which somebody may look for.
    whole += "" if everything else "".join(f"{visible(line)}\n" for line in (*table.aside, *table.pairs))
    shown: list[RichTable | str] = []
    for section in short_sections(table, controls=not everything):
        shown += ["", section.title] if section.title else []
        cells = _narrowed(_plain(section.cells), narrow)
        left_out = [name for name in section.cells.header if name not in cells.header]
        shown += [_rich_table(cells), *notes_without(section.notes, left_out)]
    claims = ["", *_claims(table.verdicts)] if table.verdicts else []
    return whole + _printed([*shown, *claims, "", *answer_lines(table)], narrow)


def _claims(verdicts: Sequence[Verdict]) -> list[RichTable | str]:
    """The verdicts in a table, and why of each in a line, for which no column is wide enough."""
    cells = _plain(claim_cells(verdicts))
    return [
        _rich_table(cells.columns([i for i, name in enumerate(cells.header) if name != "Why"])),
        *(f"{verdict.claim.loss}: {verdict.claim.column}: {verdict.because}." for verdict in verdicts),
    ]


def answer_lines(table: Comparison) -> list[str]:
    """The answer of each condition, a paragraph each."""
    several = len(table.answers) > 1
    said = zip(table.tuned, table.answers, strict=True)
    return [f"{found.condition}: {answer.text}" if several else answer.text for found, answer in said]


def _narrowed(cells: Cells, width: int) -> Cells:
    """The cells without the columns that a screen has no room for, the least needed first. On one of usual width words
    are broken into lines first; on a narrower one every row has one line, as far as the first columns allow.
    """
    fits = []
    for name, *column in zip(cells.header, *cells.rows, strict=True):
        texts = [name, *column]
        broken = name in LEFT - {"Loss"} and width >= READABLE
        fits.append(max(len(word) for text in texts for word in (text.split(" ") if broken else [text])))
    return by_width(cells, fits, width)


def _all_text(table: Comparison, width: int) -> list[RichTable | str]:
    shown: list[RichTable | str] = []
    for section in sections(table):
        shown += ["", section.title] if section.title else []
        cells = _plain(section.cells)
        shown += [_rich_table(cells.columns(part)) for part in _parts(cells, width)]
        shown += section.notes
    return shown


def _printed(shown: Sequence[RichTable | str], width: int) -> str:
    """What rich makes of tables and lines on a screen of that width, without colour."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, markup=False, no_color=True)
    for item in shown:
        console.print(visible(item) if isinstance(item, str) else item)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _parts(cells: Cells, width: int) -> list[list[int]]:
    """The columns in as many tables as the width asks for, each beginning with what names a row."""
    named = [i for i, name in enumerate(cells.header) if name in NAMING]
    widths = [max(map(len, texts)) for texts in zip(cells.header, *cells.rows, strict=True)]
    # What may be wrapped counts as no wider than this; `_rich_table` breaks it between words.
    room = [min(wide, WRAPPED) if name in LEFT else wide for name, wide in zip(cells.header, widths, strict=True)]
    parts: list[list[int]] = [[*named]]
    for i in range(len(cells.header)):
        if i in named:
            continue
        if len(parts[-1]) > len(named) and sum(room[k] + GAP for k in (*parts[-1], i)) > width:
            parts.append([*named])
        parts[-1].append(i)
    return parts


def _plain(cells: Cells) -> Cells:
    """The cells with nothing in them that acts on a terminal, each of one line."""
    return Cells([_line(name) for name in cells.header], [[_line(cell) for cell in row] for row in cells.rows])


def _line(text: str) -> str:
    return visible(text).replace("\n", " ").replace("\t", " ")


def _rich_table(cells: Cells) -> RichTable:
    """The cells as rich lays them out; columns narrow down to their longest word and never break one."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, padding=(0, 1))
    columns = zip(*cells.rows, strict=True) if cells.rows else [()] * len(cells.header)
    for name, column in zip(cells.header, columns, strict=True):
        longest_word = max(len(word) for text in (name, *column) for word in text.split())
        table.add_column(
            name,
            justify="left" if name in LEFT else "right",
            # A number and its interval stay together, and so does the name of a loss but for very long ones.
            no_wrap=name in ("Gain", "2nd judge", "Check")
            or name.startswith("vs ")
            or (name == "Loss" and max(map(len, column), default=0) <= WRAPPED),
            min_width=min(longest_word, LONGEST_NAME),
            overflow="fold",
            max_width=max(WRAPPED, longest_word) if name in WORDS - {"Why", "Expected", "Found"} else None,
        )
    for row in cells.rows:
        table.add_row(*row)
    return table


# ---- files --------------------------------------------------------------------------------------------------------


def _markdown(table: Comparison, everything: bool) -> str:
    parts: list[str] = [f"> {_markdown_words(line)}\n" for line in answer_lines(table)]
    parts += [] if everything else [*_bullets([*table.aside, *table.pairs]), ""]  # else the table is part of the list
    for section in [*short_sections(table, controls=not everything), *(sections(table) if everything else [])]:
        parts += ["", f"{_markdown_words(section.title)}:", ""] if section.title else []
        parts += [_markdown_table(section.cells), "", *_bullets(section.notes)]
    claims = claim_cells(table.verdicts)
    if claims.rows and everything:
        parts += ["", "What the guide says, and what was found:", "", _markdown_table(guide_cells(table.verdicts)), ""]
        parts += [_markdown_table(claims)]
    return "\n".join(parts) + "\n"


def _bullets(notes: Sequence[str]) -> list[str]:
    return [f"- {_markdown_words(note).replace('*', chr(92) + '*')}" for note in notes]


def _markdown_table(cells: Cells) -> str:
    rule = ["---" if name in LEFT else "---:" for name in cells.header]
    escaped = [[_markdown_cell(cell) for cell in row] for row in [cells.header, *cells.rows]]
    return "\n".join("| " + " | ".join(row) + " |" for row in [escaped[0], rule, *escaped[1:]])


def _markdown_words(text: str) -> str:
    """Text in one line that Markdown shows as it stands, without tags, entities and links."""
    text = _line(text)
    for acting, escaped in _MARKDOWN:
        text = acting.sub(escaped, text)
    return text


def _markdown_cell(text: str) -> str:
    text = _markdown_words(text).replace("|", "\\|")
    return text.replace("`", "\\`") if text.count("`") % 2 else text  # pairs of them are code, in which nothing acts


_STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em;max-width:110em}table{border-collapse:collapse;margin:1em 0}"
    "th,td{padding:.3em .7em;border-bottom:1px solid #ccc;text-align:right;vertical-align:top}"
    "th.words,td.words{text-align:left}code{font-size:85%}"
)


def _html(table: Comparison, everything: bool) -> str:
    """A page that opens without a network: rows, notes, verdicts, and behind each the MLflow runs it came from."""
    parts = [f"<p>{escape(line)}</p>" for line in answer_lines(table)]
    parts += [] if everything else [html_list([*table.aside, *table.pairs])]
    for section in [*short_sections(table, controls=not everything), *(sections(table) if everything else [])]:
        parts += [f"<h2>{escape(section.title)}</h2>"] if section.title else []
        runs = [{name: ids for name, ids in of.items() if ids} for of in section.runs]
        parts += [html_table(section.cells, runs or [{}] * len(section.cells.rows)), html_list(section.notes)]
    claims = html_table(claim_cells(table.verdicts), [{"runs": v.run_ids} if v.run_ids else {} for v in table.verdicts])
    guide = guide_cells(table.verdicts)
    found = "<h2>What the guide says, and what was found</h2>" + html_table(guide, [{}] * len(guide.rows)) + claims
    return _page("Comparison", "".join(parts) + (found if table.verdicts and everything else ""))


def html_list(notes: Sequence[str]) -> str:
    """Notes as a list."""
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def html_table(cells: Cells, runs: Sequence[Mapping[str, Sequence[str]]]) -> str:
    """Cells as a table; `runs`: for each row, the ids of the MLflow runs behind it by what they are for."""
    kinds = ['class="words"' if name in LEFT else "" for name in cells.header]
    head = "".join(f"<th {kind}>{escape(name)}</th>" for name, kind in zip(cells.header, kinds, strict=True))
    body = []
    for row, of_row in zip(cells.rows, runs, strict=True):
        found = "".join(f"<td {kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
        ids = "".join(f"<p>{escape(name)}: <code>{escape(' '.join(of))}</code></p>" for name, of in of_row.items())
        links = f"<details><summary>runs</summary>{ids}</details>" if ids else ""
        body.append(f'<tr>{found}<td class="words">{links}</td></tr>')
    return f"<table><thead><tr>{head}<th></th></tr></thead><tbody>{''.join(body)}</tbody></table>"


def _csv(rows: Sequence[Row]) -> str:
    """One number a column, unrounded, so that nothing has to be parsed out of a cell."""
    lines: list[Sequence[Any]] = [[
        "variant", "losses", "scenario", "trials_done", "trials_planned", "failed", "failed_of", "failed_low",
        "failed_high", "stopped", "lost", "outside_bounds", "metric", "best", "best_low", "best_high", "best_error",
        "best_blocks", "best_basis", "best_trial", "mean", "length_baseline", "margin", "kl", "step_seconds",
        "step_ratio", "step_ratio_low", "step_ratio_high", "speed", "step_ratio_check", "step_ratio_check_low",
        "step_ratio_check_high", "speed_check",
        "target", "steps_to_target", "seconds_to_target", "reached", "reached_of", "knobs", "difference",
        "difference_low", "difference_high", "difference_unit", "difference_blocks", "p_holm", "p_tie", "word",
        "p_better", "interquartile_mean",
        "stability",
    ]]  # fmt: skip
    for row in rows:
        share, best, d, p, t = row.failures, row.best, row.difference, row.pace, row.reach
        quality, effect = best.estimate if best else None, d.estimate if d else None
        lines.append([
            row.variant, "+".join(row.losses), row.scenario, row.trials_done, row.trials_planned, share.k, share.n,
            share.low, share.high, row.stopped, row.lost, row.outside, row.metric,
            *((e.value, e.low, e.high, e.error, e.blocks) if (e := quality) else [None] * 5),
            *((best.basis, best.trial) if best else [None] * 2),
            row.mean, row.length_baseline, row.margin, row.kl,
            p.seconds if p else None, *_timed(p.loss if p else None), *_timed(p.check if p else None),
            *((t.target, t.steps, t.seconds, t.reached, t.runs) if t else [None] * 5), json.dumps(dict(row.knobs)),
            *((e.value, e.low, e.high, row.unit, e.blocks) if (e := effect) else [None] * 5),
            *((d.p_holm, d.p_tie, d.instead or d.word) if d else [None, None, row.said or None]),
            row.improvement.value if row.improvement else None, row.middle,
            row.stability,
        ])  # fmt: skip
    return _csv_text(lines)


def _timed(timed: Timed | None) -> list[Any]:
    """Ratio, its limits and its word."""
    return [None] * 4 if timed is None else [timed.ratio.value, timed.ratio.low, timed.ratio.high, timed.word]


def _controls_csv(controls: Sequence[Finding]) -> str:
    """The controls as a table of their own behind an empty line; nothing where the study has none."""
    if not controls:
        return ""
    lines: list[Sequence[Any]] = [["control", "scenario", "expected", "found", "n", "unit", "held", "run_ids"]]
    for c in controls:
        lines.append([c.control, c.scenario, c.expected, c.found, c.n, c.unit, c.held, " ".join(c.run_ids)])
    return "\n" + _csv_text(lines)


def _csv_text(lines: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([_csv_cell(value) for value in line] for line in lines)
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    """A number as it is, and text that no spreadsheet computes."""
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if _FORMULA.match(value) or _FORMULA.match(value.lstrip()) else visible(value)
