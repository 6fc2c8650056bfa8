"""The page: it holds everything, loads nothing, and whatever names and texts hold stays text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dashboards.figures.figure import Figure, Missing
from dashboards.report.page import ShownSamples, render_report
from studies.records import RunRecord, Shown
from studies.text.redact import REDACTED
from tests.dashboards.generated import pool
from tests.dashboards.reports import SAMPLE, report_of

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Tags with their attributes, ids, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(report_of())


def test_the_page_holds_table_verdicts_figures_samples_and_the_study(page: str) -> None:
    found = Page(page)
    for words in (
        "Which loss?",
        "vs sigmoid (U)",
        "Untrained",
        "good .",
        '{"study": "pool"}',
        "Not drawn",
    ):
        assert words in found.text, words
    assert "cut off, gold 2.50" in found.text
    assert "2023-11-14 22:13 UTC to" in found.text
    report = report_of()
    pictures = [tag for tag, attributes in found.tags if tag == "svg" and attributes.get("aria-label")]
    both = [*report.gains.items(), *report.figures]
    assert len(pictures) == sum(isinstance(f, Figure) for _, f in both)
    for _, figure in both:
        assert figure.title in found.text
        assert figure.caption in found.text if isinstance(figure, Figure) else figure.reason in found.text


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    found = Page(page)
    assert not re.search(r"https?:|//[a-z]|@import|javascript:", page)
    loading = {"script", "link", "iframe", "object", "embed", "img", "image", "base", "form"}
    assert not loading & {tag for tag, _ in found.tags}
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    for _, attributes in found.tags:
        for name in ("href", "xlink:href", "src"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "default-src 'none'" in page


def test_every_place_that_is_referred_to_exists_once(page: str) -> None:
    ids = [attributes["id"] for _, attributes in Page(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)


def renamed(variant: str) -> list[RunRecord]:
    records = pool({"sigmoid": 0.0, "ipo": 1.0, "hinge": 0.5})
    return [r.model_copy(update={"variant": variant}) if r.variant == "ipo" else r for r in records]


def test_what_comes_from_data_and_study_files_stays_text() -> None:
    sample = Shown(prompt=HOSTILE, before=HOSTILE, after=HOSTILE)
    records = [
        r.model_copy(update={"variant": HOSTILE}) if r.variant == "ipo" else r
        for r in pool({"sigmoid": 0.0, "ipo": 1.0})
    ]
    records = [r.model_copy(update={"scenario": HOSTILE, "knobs": {HOSTILE: HOSTILE}}) for r in records]
    told = [ShownSamples(HOSTILE, HOSTILE, 0, HOSTILE, (sample,))]
    found = Page(render_report(report_of(records, study=HOSTILE, question=HOSTILE, asked=HOSTILE, samples=told)))
    assert not {"script", "img"} & {tag for tag, _ in found.tags}
    assert found.text.count(HOSTILE) >= 8


def test_secrets_are_left_out_whole_even_where_names_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    secret, token = "correct horse battery staple and more", "hf_" + "A1b2C3d4" * 4
    monkeypatch.setenv("STORE_PASSWORD", secret)
    records = [r.model_copy(update={"variant": token}) if r.variant == "hinge" else r for r in renamed(secret)]
    sample = SAMPLE.model_copy(update={"after": f"my password is {secret}"})
    told = [ShownSamples("ipo", "clean", 0, "r", (sample,))]
    page = render_report(report_of(records, asked=f"token: {token}", question=token, samples=told))
    assert secret[:12] not in page
    assert token[:12] not in page
    assert page.count(REDACTED) >= 4


@pytest.mark.slow
def test_other_scenarios_are_folded_and_what_was_not_drawn_says_why() -> None:
    records = [*pool({"sigmoid": 0.0, "ipo": 0.2}), *pool({"sigmoid": 0.0, "ipo": 0.2}, scenario="noisy")]
    report = report_of(records)
    found = Page(render_report(report))
    assert "The same for noisy" in found.text
    missing = {f.reason for _, f in report.figures if isinstance(f, Missing)}
    assert missing
    assert "it takes scenarios that differ in label_flip" in found.text


RANKING = "How much more each loss gains than sigmoid"


def test_the_page_begins_with_the_question_the_answer_the_short_table_and_one_figure(page: str) -> None:
    found, answer = Page(page), report_of().table.answers[0]
    first = Page(page[: page.index('<section id="measured">')])
    places = [first.text.index(words) for words in ("Which loss?", answer.text, "Settings used", RANKING)]
    assert places == sorted(places)
    assert [tag for tag, _ in first.tags].count("table") == 1
    assert [a.get("aria-label") for tag, a in first.tags if tag == "svg"] == [RANKING]
    assert "vs sigmoid (U)" in found.text[len(first.text) :]


def test_runs_that_are_left_aside_are_told_of_before_the_answer() -> None:
    report = report_of()
    aside = "3 finished runs left aside: another model."
    text = Page(render_report(replace(report, table=replace(report.table, aside=(aside,))))).text
    assert text.index(aside) < text.index(report.table.answers[0].text)


def test_no_winner_stands_at_the_head_of_a_study_that_judged_nothing() -> None:
    page = render_report(report_of(pool({"sigmoid": 0.0, "ipo": 1.0})))
    text = Page(page[: page.index('<section id="measured">')]).text
    assert "rank no losses" in text
    assert "Use " not in text
    assert "Not judged" in text


def test_wide_tables_are_folded_and_scroll_in_a_box_of_their_own(page: str) -> None:
    after = page[page.index('<section id="measured">') :]
    assert not re.search(r'(?<!<div class="wide">)<table', after)
    measured = after[: after.index('<section id="figures">')]
    assert '<div class="wide">' in measured
    assert not re.search(r'(?<!</summary>)<div class="wide">', measured)


def test_every_condition_has_its_answer_and_all_but_the_first_their_table_folded() -> None:
    records = [*pool({"sigmoid": 0.0, "ipo": 0.2}), *pool({"sigmoid": 0.0, "ipo": 0.2}, scenario="noisy")]
    report = report_of(records)
    page = render_report(report)
    first = page[: page.index('<section id="measured">')]
    assert all(
        f"{found.condition}: {said.text}" in Page(first).text
        for found, said in zip(report.table.tuned, report.table.answers, strict=True)
    )
    assert "<summary>The same for noisy</summary>" in first
    assert first.count('class="short"') == first.count('<svg role="img"') == 2


def test_a_study_without_samples_claims_or_an_end_has_a_page_all_the_same() -> None:
    page = Page(render_report(report_of(samples=[], question="", asked="")))
    assert "Samples" not in page.text
    assert "Everything measured" in page.text


@pytest.mark.slow
def test_a_server_of_mlflow_is_linked_to() -> None:
    page = Page(render_report(report_of(page="https://mlflow.example/#/experiments/1")))
    assert ("a", {"href": "https://mlflow.example/#/experiments/1"}) in page.tags
