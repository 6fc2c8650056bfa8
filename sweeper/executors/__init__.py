"""Where runs are trained: in this process or in warm workers, behind capacity, submit, events, stop and close."""

from sweeper.executors.base import (
    Cancel,
    Capacity,
    Dropped,
    DropWaiting,
    Event,
    Executor,
    Finished,
    Kill,
    Lost,
    Reported,
    SetAside,
    Started,
    StopOrder,
    WorkerNews,
    WorkerState,
)
from sweeper.executors.inline import Inline
from sweeper.executors.process.executor import Process
from sweeper.executors.registry import ELSEWHERE, EXECUTORS, Workplace

__all__ = [
    "ELSEWHERE",
    "EXECUTORS",
    "Cancel",
    "Capacity",
    "DropWaiting",
    "Dropped",
    "Event",
    "Executor",
    "Finished",
    "Inline",
    "Kill",
    "Lost",
    "Process",
    "Reported",
    "SetAside",
    "Started",
    "StopOrder",
    "WorkerNews",
    "WorkerState",
    "Workplace",
]
