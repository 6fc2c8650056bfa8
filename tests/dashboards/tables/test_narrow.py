"""The short table on screens of every width: what is left out is told, and is not explained."""

from __future__ import annotations

import pytest

from dashboards.tables.formats import render
from dashboards.tables.short import notes_without
from tests.dashboards.materials import material_of_replicates
from tests.dashboards.tuned.replicated import replicated

GAINS = {"sigmoid": [0.5, 0.6, 0.55, 0.5], "ipo": [0.4, 0.6, 0.2, 0.5], "a-mixture-of-losses": [0.1, 0.2, 0.1, 0.2]}


def printed(width: int) -> str:
    return render(material_of_replicates(replicated(GAINS)).comparison, width=width, everything=False)


@pytest.mark.parametrize("width", [80, 100])
def test_every_row_has_one_line(width: int) -> None:
    rows = printed(width).split("─\n")[1].split("\n\n")[0].splitlines()
    assert [row.split()[0] for row in rows] == ["sigmoid", "ipo", "a-mixture-of-losses"]


def test_the_narrowest_screen_is_kept_to() -> None:
    assert max(map(len, printed(60).splitlines())) <= 60


def test_what_there_is_no_room_for_is_told_and_not_explained() -> None:
    wide, narrow = printed(100), printed(60)
    assert "Worked: settings that gained" in wide
    assert "On a wider screen" not in wide
    assert "Worked: settings that gained" not in narrow
    assert "On a wider screen also: Worked, Drift, Settings used." in narrow.replace("\n", " ")


def test_notes_keep_the_sentences_of_other_columns() -> None:
    notes = [
        "Gain: a share. [a, b]: 95% interval.",
        "Worked: settings. Drift: KL in nats. Length: of samples.",
        "More.",
    ]
    assert notes_without(notes, []) == notes
    assert notes_without(notes, ["Drift"]) == [
        notes[0], "Worked: settings. Length: of samples.", "More.", "On a wider screen also: Drift."
    ]  # fmt: skip
    assert notes_without(notes, ["Worked", "Drift", "Length"])[1] == "More."
