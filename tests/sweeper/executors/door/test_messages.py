"""Every message comes out of JSON as it went in, and nothing else is taken for one."""

from __future__ import annotations

import json
import math
import pickle
import socket
from dataclasses import fields
from pathlib import Path

import pytest

from studies.records import Cause, DataConfig, EvaluationConfig, Measurement, RunConfig, RunResult, Shown
from studies.spec import Study, load_study, shipped_studies
from sweeper.executors import Finished, Reported, Started, WorkerNews
from sweeper.executors.door.frames import Frames, TooLong, framed, read_frame
from sweeper.executors.door.messages import (
    End,
    Ended,
    FromWorker,
    Kill,
    Launch,
    Nothing,
    Order,
    Stop,
    Want,
    decode_event,
    decode_order,
    encode,
)
from sweeper.planning.placement import sample_runs
from trainers.interface import Doing, Job, Placement, Sized, Sizing, Timing

CONFIG = RunConfig(
    study="study",
    variant="two\nlines",
    scenario="clean",
    trial=3,
    block=0,
    seed=2**40,
    settings={"learning_rate": 1e-7 / 3, "lora_target_modules": ["q", "v"], "optim_args": {"a": None}, "beta": 0.1},
    knobs={"beta": 0.1},
    data=DataConfig(path="pairs.jsonl", columns={"prompt": None}),
    evaluation=EvaluationConfig(at=(0.5, 1.0)),
    content={"data": "abc"},
)
RESULT = RunResult(
    key=CONFIG.key,
    cause=Cause.NON_FINITE,
    message="loss ∞",
    measurements=(Measurement(name="margin", value=math.inf, step=3, error=1e-9),),
    curve=((1, {"loss": 0.1 + 0.2}), (2, {"loss": math.inf})),
    facts={"together": 4, "bf16": True, "gone": None, "rate": 1 / 3},
    samples=(Shown(prompt="a", before="b", after="\udc80 is half a character"),),
)
TRIED = Timing(Placement(together=4, begin=0), 0.1, None)
JOB = Job(
    config=CONFIG,
    folder=Path("/runs/a b"),
    keep_adapter=False,
    keep_samples=True,
    from_samples=True,
    against=(Path("/runs/b"), Path("/runs/c")),
    placement=Placement(3, 2, True, False, 1, 2, 2),
    pause_at=7,
    time_limit=1.5,
    model="/models/d",
    attempt=4,
    trainer="module:Class",
)
SIZED = Sized("like", 4, Sizing("cpu", Placement(together=4), (TRIED,), 0.1, 6, None, "why"))


@pytest.mark.parametrize(
    "order",
    [
        JOB,
        Job(CONFIG, Path("/runs/a")),
        *(Nothing(), Stop("key"), End(), Launch("ticket", "worker-3"), Kill("ticket")),
    ],
)
def test_an_order_comes_out_as_it_went_in(order: Order) -> None:
    assert decode_order(encode(order)) == order


def test_every_field_of_a_job_travels() -> None:
    kind, sent = json.loads(encode(JOB))
    assert (kind, sent.keys()) == ("job", {field.name for field in fields(Job)})
    usual = Job(CONFIG, Path("/runs/a"))
    same = [field.name for field in fields(Job) if getattr(JOB, field.name) == getattr(usual, field.name)]
    assert same == ["config"], "else a field that is left out looks as if it had travelled"


@pytest.mark.parametrize(
    "event",
    [
        *(Want(None), Want("like"), Started("key", "worker-1"), Reported("key", 7, {"loss": 1 / 3, "norm": math.inf})),
        *(Finished(RESULT.key, RESULT), WorkerNews("worker-1", Doing("loading")), WorkerNews("worker-1", SIZED)),
        Ended("ticket", Cause.OUT_OF_HOST_MEMORY, "why"),
    ],
)
def test_an_event_comes_out_as_it_went_in(event: FromWorker) -> None:
    assert decode_event(encode(event), "worker-1") == event


def test_no_number_stays_none() -> None:
    found = decode_event(encode(Reported("key", 1, {"loss": math.nan})), "worker-1")
    assert isinstance(found, Reported)
    assert math.isnan(found.metrics["loss"])


def test_a_worker_speaks_for_itself_alone() -> None:
    assert decode_event(encode(Started("key", "worker-7")), "worker-1") == Started("key", "worker-1")


@pytest.mark.parametrize("name", shipped_studies())
def test_the_runs_of_a_shipped_study_keep_their_keys(name: str) -> None:
    for config in sample_runs(Study.of(load_study(name))):
        found = decode_order(encode(Job(config, Path("/runs"))))
        assert isinstance(found, Job)
        assert found.config == config
        assert found.config.key == config.key


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"\xff",
            b"{}",
            b"[]",
            b"[1]",
            b'["nobody"]',
            b'["job"]',
            b'["stop"]',
            b'["stop", 1, 2]',
            b"[" * 100_000,
        ),
        json.dumps(["finished", {"key": "a"}]).encode(),
        json.dumps(["reported", "key", "one", {}]).encode(),
        json.dumps(["reported", "key", 1, [1]]).encode(),
        json.dumps(["job", {"config": {}, "placement": {}, "folder": "a"}]).encode(),
        json.dumps(["ended", "ticket", "bored", "why"]).encode(),
        pickle.dumps(Stop("key")),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    for decode in (decode_order, lambda data: decode_event(data, "worker-1")):
        with pytest.raises(ValueError, match=r"."):
            decode(data)


def test_frames_come_whole_however_they_are_cut() -> None:
    ours, theirs = socket.socketpair()
    frames, sent = Frames(ours, 100), [b"", b"a", b"b" * 100]
    found = list[bytes]()
    for byte in b"".join(map(framed, sent)):
        theirs.send(bytes([byte]))
        found += frames.receive()
    assert found == sent
    assert frames.receive() == []
    theirs.close()
    with pytest.raises(EOFError):
        frames.receive()


def test_a_frame_that_is_too_long_is_not_waited_for_and_those_before_it_are_given() -> None:
    ours, theirs = socket.socketpair()
    frames = Frames(ours, 100)
    theirs.sendall(framed(b"a") + b"\x00\x00\x00\x65")
    assert frames.receive() == [b"a"]
    with pytest.raises(TooLong, match="101 bytes, where 100"):
        frames.receive()
    theirs.sendall(framed(b"bb"))
    ours, theirs = socket.socketpair()
    theirs.sendall(framed(b"bb"))
    with pytest.raises(TooLong):
        read_frame(ours, 1)


def test_what_the_other_end_does_not_take_is_kept_and_sent_later() -> None:
    ours, theirs = socket.socketpair()
    frames, data = Frames(ours, 100), bytes(4 << 20)
    frames.send(data)
    assert not frames.is_sent
    found = b""
    while len(found) < len(data) + 4:
        found += theirs.recv(1 << 20)
        frames.flush()
    assert frames.is_sent
    assert found == framed(data)
