"""The public Python interface: `sweeper.load("mine.yaml")` gives a study, with all that the commands do as methods."""

from sweeper.api.answers import Answer, Best, Estimate
from sweeper.api.figures import Figure
from sweeper.api.refusals import Refused
from sweeper.api.shown import Plan, Status
from sweeper.api.study import Study, load

__all__ = ["Answer", "Best", "Estimate", "Figure", "Plan", "Refused", "Status", "Study", "load"]
