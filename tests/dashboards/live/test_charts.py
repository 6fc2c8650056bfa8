"""What the page's charts have in common."""

from dashboards.live.page.charts import colours_of


def test_a_variant_has_one_colour_whoever_comes_first() -> None:
    runs, spans = ["sigmoid", "ipo", "sigmoid", "hinge"], ["hinge", "sigmoid", "ipo"]
    assert colours_of(runs) == colours_of(spans)
    assert len(set(colours_of(runs).values())) == 3
