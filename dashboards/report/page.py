"""The whole of a study as one page that opens without a network: the answer and what it rests on, then everything that
was measured, claims, figures, samples, what was asked.

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
from dashboards.report.style import POLICY, STYLE
from dashboards.tables.cells import Cells, claim_cells, guide_cells
from dashboards.tables.comparison import Comparison
from dashboards.tables.formats import answer_lines, html_list, html_table
from dashboards.tables.numbers import number
from dashboards.tables.sections import EVERYTHING, Section, sections, short_sections
from dashboards.tables.short import LOSS, USED, VERDICT
from studies.records import RunRecord, Shown, State
from studies.text.plural import so_many
from studies.text.redact import redact


@dataclass(frozen=True)
class ShownSamples:
    """Samples of the run that speaks for a stratum. `trial`: its number, None where replicates have one each."""

    variant: str
    scenario: str
    trial: int | None
    run_id: str
    samples: tuple[Shown, ...]


@dataclass(frozen=True)
class Report:
    """All that the page shows. `gains`: the figure beside each condition's answer; `figures`: (scenario, figure) of all
    others, "" for those of the whole study, the first scenario's first; `asked`: the study's file as it was run;
    `page`: the address of its page in MLflow, where that has one.
    """

    study: str
    question: str
    records: Sequence[RunRecord]
    table: Comparison
    gains: Mapping[str, Figure | Missing]
    figures: Sequence[tuple[str, Figure | Missing]]
    samples: Sequence[ShownSamples]
    asked: str
    page: str | None


def render_report(report: Report) -> str:
    """The page. All that looks like a secret is left out, and everything else is text."""
    missing = [(scenario, found) for scenario, found in report.gains.items() if isinstance(found, Missing)]
    parts = [
        _head(report),
        _answers(report.table, report.gains),
        _about(report),
        _section("measured", "Everything measured", _measured(report.table)),
        _section("claims", "What the guide says, and what was found", _claims(report.table)),
        _section("figures", "Figures", _figures([*report.figures, *missing])),
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
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(report.study)}</title><style>{STYLE}</style></head>\n<body>{''.join(parts)}</body></html>\n"
    )
    drawn = [*report.gains.values(), *(figure for _, figure in report.figures)]
    return _with_pictures(page, [figure for figure in drawn if isinstance(figure, Figure)])


def _section(anchor: str, title: str, body: str) -> str:
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{body}</section>\n' if body else ""


def _head(report: Report) -> str:
    question = f'<p class="question">{escape(report.question)}</p>' if report.question else ""
    return f"<header><h1>{escape(report.study)}</h1>{question}</header>\n"


def _about(report: Report) -> str:
    """When and how much was trained, and where on the page the rest is."""
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
    places = (("measured", "Everything measured"), ("claims", "Claims"), ("figures", "Figures"),
              ("samples", "Samples"), ("study", "Study"), ("reading", "How to read it"))  # fmt: skip
    given = {"claims": bool(report.table.verdicts), "samples": bool(report.samples)}
    nav = "".join(f'<a href="#{anchor}">{text}</a>' for anchor, text in places if given.get(anchor, True))
    return f'<p class="meta">{when}{counts}.{link}</p><nav>{nav}</nav>\n'


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


# ---- the first screen ---------------------------------------------------------------------------------------------


def _answers(table: Comparison, gains: Mapping[str, Figure | Missing]) -> str:
    """The answer of each condition; then the table and the figure that it rests on, those of the others folded."""
    said = "".join(f'<p class="answer">{_with_commands(line)}</p>' for line in answer_lines(table))
    said = "".join(f'<p class="meta">{escape(line)}</p>' for line in table.aside) + said
    parts: list[str] = []
    for found, section in zip(table.tuned, short_sections(table), strict=True):
        figure = gains.get(found.condition)
        shown = _beside(section, figure if isinstance(figure, Figure) else None)
        title = f"<h3>{escape(section.title)}</h3>" if section.title else ""
        parts.append(f"{title}{shown}" if not parts else _folded(f"The same for {section.title}", shown))
    words = "".join(html_list(section.notes) for section in short_sections(table) if section.notes)
    return f'<section id="answer">{said}{"".join(parts)}{words}</section>\n' if parts else ""


def _with_commands(line: str) -> str:
    """A sentence in which what is to be typed stands apart."""
    commands = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(line))
    return re.sub(r"--set [^\s<]+", lambda found: f"<code>{found[0]}</code>", commands)


def _beside(section: Section, figure: Figure | None) -> str:
    ids = "".join(
        f"<p>{escape(row[0])}: <code>{escape(' '.join(of['judged']))}</code></p>"
        for row, of in zip(section.cells.rows, section.runs, strict=True)
        if of.get("judged")
    )
    runs = _folded("The runs behind these numbers", ids) if ids else ""
    picture = _figure(figure) if figure else ""
    return f'<div class="beside"><div class="wide">{_short_table(section.cells)}{runs}</div>{picture}</div>'


_CLASSES = {LOSS: "words name", VERDICT: "words verdict", USED: "words all"}


def _short_table(cells: Cells) -> str:
    """The short table; on a phone each row folds into lines, with the names of its columns in them."""
    kinds = [_CLASSES.get(name, "") for name in cells.header]
    head = "".join(f'<th class="{kind}">{escape(name)}</th>' for name, kind in zip(cells.header, kinds, strict=True))
    rows = []
    for row in cells.rows:
        of = zip(cells.header, kinds, row, strict=True)
        shown = "".join(
            f'<td class="{kind}{" none" if cell == "-" else ""}" data-name="{escape(name)}">{escape(cell)}</td>'
            for name, kind, cell in of
        )
        rows.append(f"<tr{_USED_ROW if 'use' in row else ''}>{shown}</tr>")
    return f'<table class="short"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


_USED_ROW = ' class="use"'


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _measured(table: Comparison) -> str:
    """Every table, folded: they are wide."""
    parts = []
    for section in sections(table):
        runs = [{name: ids for name, ids in of.items() if ids} for of in section.runs]
        shown = _wide(html_table(section.cells, runs or [{}] * len(section.cells.rows))) + html_list(section.notes)
        title = section.title.replace(EVERYTHING, "Each loss", 1)  # which stands above all of them
        parts.append(_folded(f"{title}: {so_many(len(section.cells.rows), 'row')}", shown))
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
        f"{_folded('Every claim, its numbers and runs', _wide(html_table(claims, runs)))}"
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
            shown += _folded(f"The same for {other}", folded)
    missing = [f"{f.title}: {f.reason}." for scenario, f in found if scenario in ("", first) and isinstance(f, Missing)]
    return shown + (_folded(f"Not drawn, and why: {len(missing)}", html_list(missing)) if missing else "")


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
        trial = "" if told.trial is None else f"trial {told.trial}, "
        title = f"{told.variant}{where}: {trial}run {told.run_id[:8]}"
        rows = "".join(
            f'<tr><td data-name="Prompt">{escape(s.prompt)}</td>'
            f"{_answer('Untrained', s.before, s.gold_before, s.cut_before)}"
            f"{_answer('Trained', s.after, s.gold_after, s.cut_after)}</tr>"
            for s in told.samples
        )
        parts.append(
            f'<details{" open" if told is found[0] else ""}><summary>{escape(title)}</summary><div class="wide">'
            '<table class="samples"><thead><tr><th class="words">Prompt</th><th class="words">Untrained</th>'
            f'<th class="words">Trained</th></tr></thead><tbody>{rows}</tbody></table></div></details>'
        )
    return "".join(parts)


def _answer(name: str, text: str, gold: float | None, cut: bool) -> str:
    said = ["cut off"] * cut + ([f"gold {number(gold)}"] if gold is not None else [])
    tail = f' <span class="gold">({", ".join(said)})</span>' if said else ""
    return f'<td data-name="{name}">{escape(text)}{tail}</td>'


_READING: Sequence[str] = (
    "A trial is one assignment of settings; a run is one training of it on a data draw (of the task and its "
    "data) with a "
    "seed. Intervals are over data draws, since runs on the same data resemble each other.",
    "A number that chose a config is too good for it. Differences, ties and verdicts come from runs that train what "
    "was chosen again on fresh data draws; without such runs nothing is called better or worse.",
    "Losses, rewards and margins as TRL logs them scale with the loss and with beta, and are compared nowhere here.",
    "A config that diverged, collapsed, inverted the preferences or drifted far in length is a result and not "
    "left out.",
    "Quality can be bought with drift: look at KL beside it.",
)


def by_name(found: Iterable[tuple[str, Figure | Missing]]) -> Mapping[str, str]:
    """File name -> SVG of every figure that was drawn."""
    return {f"{figure.name}.svg": figure.svg for _, figure in found if isinstance(figure, Figure)}
