"""What the page's charts have in common."""

from dashboards.live.page.charts import beside, colours_of, curves, gains, marks
from dashboards.live.views import Bar, Table


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


def test_the_line_of_no_difference_lies_on_the_axis_wherever_the_losses_are() -> None:
    far = Bar("ipo", "undecided", 70.0, 65.0, 75.0)
    for is_rate, same in ((True, 50.0), (False, 0.0)):
        drawn = beside(Table("", (), (), (), "", (), "% of what is possible", (far,), "dpo", is_rate))["series"]
        assert [one["data"] for one in drawn if "markLine" in one] == [[[same, 0]]]


def test_a_curve_has_the_colour_of_its_variant_and_a_second_one_of_it_is_dashed() -> None:
    colours = colours_of(["ipo", "dpo"])
    line = ((1.0, 0.5), (2.0, 0.7))
    drawn = curves({"a": ("ipo", line), "b": ("dpo", line), "c": ("ipo", line)}, "gold", colours)["series"]
    assert [one["lineStyle"]["color"] for one in drawn] == [colours["ipo"], colours["dpo"], colours["ipo"]]
    assert [one["lineStyle"]["type"] for one in drawn] == ["solid", "solid", "dashed"]
