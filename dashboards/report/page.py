"""The whole of a study as one page that opens without a network: table, verdicts, figures, samples, what was asked.

It has no script and loads nothing, and says so to the browser. Computes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from dashboards.analysis.failures import summary
from dashboards.figures.figure import Figure, Missing
from dashboards.tables.cells import claim_cells, guide_cells
from dashboards.tables.comparison import Comparison
from dashboards.tables.formats import html_list, html_table
from dashboards.tables.numbers import number
from dashboards.tables.sections import sections
from studies.records import RunRecord, Shown, State
from studies.text.plural import so_many
from studies.text.redact import redact

# No script, no font, no picture and no style from anywhere, whatever a study's names may hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1e;--quiet:#66666b;--line:#d9d9de;--page:#fff;--soft:#f5f5f7;--link:#0058a3}
@media(prefers-color-scheme:dark){:root{--ink:#ececf0;--quiet:#a0a0a8;--line:#3c3c42;--page:#1a1a1d;--soft:#242428;
--link:#7cc0ff}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--ink);background:var(--page);margin:0 auto;
padding:2.5em 1.5em 5em;max-width:92em}
h1{font-size:1.7em;line-height:1.2;margin:0 0 .2em}h2{font-size:1.25em;margin:2.4em 0 .6em;
padding-top:.5em;border-top:1px solid var(--line)}
h3{font-size:1.02em;margin:1.8em 0 .3em}p{margin:.5em 0;max-width:52em}a{color:var(--link)}
.question{font-size:1.1em}.meta,figcaption,nav,li{color:var(--quiet);font-size:.9em}figcaption,li{max-width:60em}
nav a{margin-right:1.2em}ul{padding-left:1.2em}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.8em 0;font-size:.86em;font-variant-numeric:tabular-nums}
th,td{padding:.32em .6em;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
td:not(.words){white-space:nowrap}td.words{min-width:6em}
th{font-weight:600;border-bottom:2px solid var(--line);vertical-align:bottom}th.words,td.words{text-align:left}
tbody tr:hover{background:var(--soft)}code,pre{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.86em}
td code{overflow-wrap:anywhere}summary{cursor:pointer;color:var(--link)}
figure{margin:0 0 2em}figure svg{display:block;width:100%;height:auto;max-width:60em;background:#fff;border-radius:4px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--soft);padding:.8em 1em;border-radius:4px;margin:.4em 0}
.samples td{text-align:left;white-space:pre-wrap;overflow-wrap:anywhere;width:33%;min-width:14em}
.gold{color:var(--quiet)}
@page{size:A4 landscape;margin:12mm}
@media print{body{max-width:none;padding:0;font-size:9pt}nav,td details{display:none}figure,tr{break-inside:avoid}
.wide{overflow:visible}table{font-size:7pt}th,td{padding:.2em .4em}td:not(.words){white-space:normal}
td.words{min-width:0}h2,h3{break-after:avoid}figure svg{max-width:22cm}}
"""


@dataclass(frozen=True)
class ShownSamples:
    """Samples of the run that speaks for a stratum."""

    variant: str
    scenario: str
    trial: int
    run_id: str
    samples: tuple[Shown, ...]


@dataclass(frozen=True)
class Report:
    """All that the page shows. `figures`: (scenario, figure), "" for those of the whole study, the first scenario's
    first; `asked`: the study's file as it was run; `page`: the address of its page in MLflow, where that has one.
    """

    study: str
    question: str
    records: Sequence[RunRecord]
    table: Comparison
    figures: Sequence[tuple[str, Figure | Missing]]
    samples: Sequence[ShownSamples]
    asked: str
    page: str | None


def render_report(report: Report) -> str:
    """The page. All that looks like a secret is left out, and everything else is text."""
    parts = [
        _head(report),
        _section("table", "Comparison", _table(report.table)),
        _section("claims", "What the guide says, and what was found", _claims(report.table)),
        _section("figures", "Figures", _figures(report.figures)),
        _section("samples", "Samples before and after training", _samples(report.samples)),
        _section(
            "study",
            "The study",
            f"<p>As it was run; numbers come from MLflow alone.</p><pre>{escape(report.asked)}</pre>",
        ),
        _section("reading", "How to read it", html_list(_READING)),
    ]
    # Pictures are put in after everything else went through `redact`, for which their many numbers are only slow.
    page = redact(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(report.study)}</title><style>{_STYLE}</style></head>\n<body>{''.join(parts)}</body></html>\n"
    )
    return _with_pictures(page, [figure for _, figure in report.figures if isinstance(figure, Figure)])


def _section(anchor: str, title: str, body: str) -> str:
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{body}</section>\n' if body else ""


def _head(report: Report) -> str:
    times = [t for r in report.records for t in (r.started, r.ended) if t is not None]
    when = f"{_day(min(times))} to {_day(max(times))}, " if times else ""
    ended = sum(r.state is not State.RUNNING for r in report.records)
    complete = sum(r.state is State.COMPLETE and r.failure is None for r in report.records)
    running, failed = len(report.records) - ended, summary(report.records)
    counts = f"{so_many(ended, 'run')}, {complete} of them complete" + (
        f", {running} still in training" if running else ""
    )
    counts += f"; {failed}" if failed else ""
    link = f' <a href="{escape(report.page)}">All runs in MLflow</a>.' if report.page else ""
    places = (("table", "Comparison"), ("claims", "Claims"), ("figures", "Figures"), ("samples", "Samples"),
              ("study", "Study"), ("reading", "How to read it"))  # fmt: skip
    given = {"claims": bool(report.table.verdicts), "samples": bool(report.samples)}
    nav = "".join(f'<a href="#{anchor}">{text}</a>' for anchor, text in places if given.get(anchor, True))
    question = f'<p class="question">{escape(report.question)}</p>' if report.question else ""
    short = "".join(f"<p>{escape(line)}</p>" for line in _short(report.table))
    return (
        f"<header><h1>{escape(report.study)}</h1>{question}"
        f'<p class="meta">{when}{counts}.{link}</p>{short}<nav>{nav}</nav></header>\n'
    )


def _short(table: Comparison) -> list[str]:
    """Of each scenario one sentence: what is better, worse or the same; claims that lean on one task are left open."""
    several = len({row.scenario for row in table.rows}) > 1
    found = []
    if all(row.difference is None for row in table.rows):
        found.append("Nothing is called better or worse: that takes confirm runs of a baseline and another loss.")
    for scenario in dict.fromkeys(row.scenario for row in table.rows):
        words: dict[str, list[str]] = {}
        for row in table.rows:
            if row.scenario == scenario and row.difference is not None:
                plain = row.difference.word if row.difference.is_general else "inconclusive"
                word = row.difference.instead or plain
                words.setdefault(word, []).append(row.variant)
            elif row.scenario == scenario and row.said:
                words.setdefault(row.said, []).append(row.variant)
        ordered = sorted(words, key=lambda word: _WORDS.index(word) if word in _WORDS else len(_WORDS))
        said = "; ".join(f"{word}: {', '.join(words[word])}" for word in ordered)
        where = f" in {scenario}" if several else ""
        judged = any(row.difference is not None for row in table.rows if row.scenario == scenario)
        head = f"Against {table.baseline}{where}, by the confirm phase" if judged else f"Without a number{where}"
        found += [f"{head}: {said}."] if said else []
    return found


_WORDS = ("better", "tie", "inconclusive", "worse")


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _table(table: Comparison) -> str:
    parts = []
    for section in sections(table):
        runs = [{name: ids for name, ids in of.items() if ids} for of in section.runs]
        parts += [f"<h3>{escape(section.title)}</h3>"] if section.title else []
        parts += [_wide(html_table(section.cells, runs or [{}] * len(section.cells.rows))), html_list(section.notes)]
    return "".join(parts)


def _claims(table: Comparison) -> str:
    if not table.verdicts:
        return ""
    guide = guide_cells(table.verdicts)
    claims = claim_cells(table.verdicts)
    runs = [{"runs": v.run_ids} if v.run_ids else {} for v in table.verdicts]
    counts = {ruling: sum(v.ruling == ruling for v in table.verdicts) for ruling in _RULINGS}
    said = ", ".join(f"{n} {ruling}" for ruling, n in counts.items() if n)
    return (
        f"<p>Of {len(table.verdicts)} claims: {said}.</p>{_wide(html_table(guide, [{}] * len(guide.rows)))}"
        f"<details><summary>Every claim, its numbers and runs</summary>{_wide(html_table(claims, runs))}</details>"
    )


_RULINGS = ("supported", "refuted", "tie", "inconclusive", "not testable here")


def _wide(table: str) -> str:
    return f'<div class="wide">{table}</div>'


# ---- figures ------------------------------------------------------------------------------------------------------


def _figures(found: Sequence[tuple[str, Figure | Missing]]) -> str:
    """The first scenario's figures and the study's, then the other scenarios' folded, then what was not drawn."""
    first = next((scenario for scenario, _ in found if scenario), "")
    shown = "".join(_figure(f) for scenario, f in found if scenario in ("", first) and isinstance(f, Figure))
    for other in dict.fromkeys(scenario for scenario, _ in found if scenario not in ("", first)):
        folded = "".join(_figure(f) for scenario, f in found if scenario == other and isinstance(f, Figure))
        if folded:
            shown += f"<details><summary>The same for {escape(other)}</summary>{folded}</details>"
    missing = [f"{f.title}: {f.reason}." for scenario, f in found if scenario in ("", first) and isinstance(f, Missing)]
    return shown + (f"<h3>Not drawn</h3>{html_list(missing)}" if missing else "")


def _figure(figure: Figure) -> str:
    place = f"<!--picture {escape(figure.name)}-->"
    return (
        f'<figure id="figure-{escape(figure.name)}"><h3>{escape(figure.title)}</h3>{place}'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>\n"
    )


def _with_pictures(page: str, figures: Iterable[Figure]) -> str:
    for figure in figures:
        page = page.replace(f"<!--picture {escape(figure.name)}-->", picture(figure), 1)
    return page


def picture(figure: Figure) -> str:
    """The SVG as part of an HTML page: without the parts of a document of its own, and with its title for readers."""
    svg = figure.svg[figure.svg.index("<svg") :]
    svg = re.sub(r' (?:xmlns(?::\w+)?|width|height)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    spoken = f'<svg role="img" aria-label="{escape(redact(figure.title))}" style="stroke-linejoin:round"'
    return svg.replace("<svg", spoken, 1)


# ---- samples ------------------------------------------------------------------------------------------------------


def _samples(found: Sequence[ShownSamples]) -> str:
    if not found:
        return ""
    parts = [
        "<p>The first prompts of the evaluation, answered by the untrained model and by the best config of each loss, "
        "with the same random numbers. A few samples show what changed; they prove nothing.</p>"
    ]
    several = len({told.scenario for told in found}) > 1
    for told in found:
        where = f", {told.scenario}" if several else ""
        title = f"{told.variant}{where}: trial {told.trial}, run {told.run_id[:8]}"
        rows = "".join(
            f"<tr><td>{escape(s.prompt)}</td>{_answer(s.before, s.gold_before, s.cut_before)}"
            f"{_answer(s.after, s.gold_after, s.cut_after)}</tr>"
            for s in told.samples
        )
        parts.append(
            f'<details{" open" if told is found[0] else ""}><summary>{escape(title)}</summary><div class="wide">'
            '<table class="samples"><thead><tr><th class="words">Prompt</th><th class="words">Untrained</th>'
            f'<th class="words">Trained</th></tr></thead><tbody>{rows}</tbody></table></div></details>'
        )
    return "".join(parts)


def _answer(text: str, gold: float | None, cut: bool) -> str:
    said = ["cut off"] * cut + ([f"gold {number(gold)}"] if gold is not None else [])
    tail = f' <span class="gold">({", ".join(said)})</span>' if said else ""
    return f"<td>{escape(text)}{tail}</td>"


_READING: Sequence[str] = (
    "A trial is one assignment of knobs; a run is one training of it on a block (a draw of the task and its "
    "data) with a "
    "seed. Intervals are over blocks, since runs on the same data resemble each other.",
    "A number that chose a config is too good for it. Differences, ties and verdicts come from the confirm "
    "phase, which "
    "trains the chosen configs again on fresh blocks; without one nothing is called better or worse.",
    "Losses, rewards and margins as TRL logs them scale with the loss and with beta, and are compared nowhere here.",
    "A config that diverged, collapsed, inverted the preferences or drifted far in length is a result and not "
    "left out.",
    "Quality can be bought with drift: look at KL beside it.",
)


def by_name(found: Iterable[tuple[str, Figure | Missing]]) -> Mapping[str, str]:
    """File name -> SVG of every figure that was drawn."""
    return {f"{figure.name}.svg": figure.svg for _, figure in found if isinstance(figure, Figure)}
