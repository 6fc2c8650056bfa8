"""What the page's charts have in common."""

from dashboards.live.page.charts import colours_of, gains, marks
from dashboards.live.views import Bar


def test_a_variant_has_one_colour_whoever_comes_first() -> None:
    runs, spans = ["sigmoid", "ipo", "sigmoid", "hinge"], ["hinge", "sigmoid", "ipo"]
    assert colours_of(runs) == colours_of(spans)
    assert len(set(colours_of(runs).values())) == 3


def test_every_mark_that_is_drawn_is_said_and_no_other() -> None:
    dot, none = Bar("ipo", "use", 3.0, 1.0, 5.0), Bar("kto", "avoid: breaks", None, None, None)
    avoided = Bar("hinge", "avoid: breaks", 1.0, None, None)
    for bars in ((dot, none), (dot, avoided)):
        assert ("triangle" in str(gains(bars, "gold"))) == ("triangle" in marks(bars))
    assert marks((dot,)) == "Dot: a loss; bar: its 95 % interval."
    assert "dashed line: sigmoid" in marks((dot,), "sigmoid")
