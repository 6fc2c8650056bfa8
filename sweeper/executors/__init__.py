"""Where runs are trained: in this process or in warm worker processes, behind submit, events, cancel."""

from sweeper.executors.base import Dropped, Event, Executor, Finished, Lost, Reported, Started, Told
from sweeper.executors.inline import Inline
from sweeper.executors.process.executor import Process

__all__ = ["Dropped", "Event", "Executor", "Finished", "Inline", "Lost", "Process", "Reported", "Started", "Told"]
