"""A machine that is cut off sends no word of it: both sides notice by themselves. A network namespace stands for it."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from studies.records import Cause
from sweeper.executors import Finished, Lost, Started
from tests.waiting import wait_until
from trainers.interface import Job

MakeJob = Callable[..., Job]
MakeElsewhere = Callable[..., Any]
pytestmark = pytest.mark.slow
HERE, THERE = "10.199.7.1", "10.199.7.2"
NOTICED_SECONDS = 90  # half a minute of silence, on a busy machine


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[str]:
    """The name of a network of another machine, which reaches this one at HERE."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("a network of its own takes `ip` (apt-get install iproute2) and root")
    name, end = f"test-{secrets.token_hex(3)}", f"v{secrets.token_hex(3)}"
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network of its own can be made here: {error.stderr.decode().strip()}")
    try:
        ip("link", "add", end, "type", "veth", "peer", "name", "there", "netns", name)
        ip("addr", "add", f"{HERE}/24", "dev", end)
        ip("link", "set", end, "up")
        for words in (("addr", "add", f"{THERE}/24", "dev", "there"), ("link", "set", "there", "up")):
            ip("-n", name, *words)
        yield name
    finally:
        ip("netns", "del", name)


def test_a_machine_that_is_cut_off_loses_its_run_and_ends_it(
    network: str, make_elsewhere: MakeElsewhere, make_job: MakeJob
) -> None:
    one, job = make_elsewhere("hosts", address=HERE), make_job("until stopped")
    one.start_agent(within=("ip", "netns", "exec", network))
    one.executor.submit(job)
    one.until(lambda: one.of(Started), "it does not come")
    wait_until(lambda: list(job.folder.glob("process-*")), "it does not begin")
    process = int(next(job.folder.glob("process-*")).name.removeprefix("process-"))
    ip("-n", network, "link", "set", "there", "down")
    cut = time.monotonic()
    one.until(lambda: one.of(Lost), "nobody notices")
    assert time.monotonic() - cut < NOTICED_SECONDS
    assert one.of(Lost)[0].cause is Cause.WORKER_LOST
    wait_until(lambda: not psutil.pid_exists(process), "it goes on, though nobody hears it")
    assert time.monotonic() - cut < NOTICED_SECONDS
    ip("-n", network, "link", "set", "there", "up")
    one.executor.submit(make_job("finish"))
    one.until(lambda: one.of(Finished), "the machine does not come back")
