"""Who knocks at the sweep's door: its workers are let in, and strangers get nowhere and cost next to nothing."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sweeper.executors.door import door as door_module
from sweeper.executors.door.dial import NobodyThere, dial, inherit
from sweeper.executors.door.door import MOST_NEWCOMERS, Arrived, Door, Told, TurnedAway
from sweeper.executors.door.frames import framed, read_frame
from sweeper.executors.door.greeting import (
    PROTOCOL,
    Refused,
    Welcome,
    heard_first,
    hello_of,
    new_nonce,
    sealed,
    versions_of,
)
from sweeper.executors.door.line import Line
from sweeper.executors.door.messages import Stop, Want, decode_event, decode_order, encode
from sweeper.executors.door.network import key_in, make_key, own_addresses, split_address
from sweeper.executors.door.shared import answer_mark, leave_mark
from tests.waiting import PATIENCE, wait_until

KEY = b"a key for tests alone"
WELCOME = Welcome("worker-1", "formula")


@dataclass
class Serving:
    """A door that a thread serves; what has come through it."""

    door: Door
    port: int
    arrived: list[Arrived] = field(default_factory=list)
    away: list[TurnedAway] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)
    handed_on: list[socket.socket] = field(default_factory=list)
    seconds: float = 0.0
    over: bool = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def serve(self) -> None:
        while not self.over:
            while self.handed_on:  # here, as a door belongs to one thread
                self.door.adopt(self.handed_on.pop())
            for news in self.door.wait(0.05):
                match news:
                    case Arrived():
                        self.arrived.append(news)
                    case TurnedAway():
                        self.away.append(news)
                    case Told(line=line):
                        try:
                            self.heard += line.receive()
                        except (EOFError, OSError):
                            line.close()
            self.seconds = time.thread_time()
        self.door.close()

    def dial(self, ticket: str = "ticket", key: bytes = KEY, patience: float = 0.0) -> tuple[socket.socket, Welcome]:
        connection, welcome, _ = dial([self.address], key, ticket, patience=patience)
        return connection, welcome

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)


@pytest.fixture
def serve() -> Iterator[Callable[..., Serving]]:
    made = list[tuple[Serving, threading.Thread]]()

    def start(**more: dict[str, str]) -> Serving:
        door = Door(KEY, **more)
        serving = Serving(door, door.listen("127.0.0.1", 0))
        thread = threading.Thread(target=serving.serve, daemon=True)
        made.append((serving, thread))
        thread.start()
        return serving

    yield start
    for serving, thread in made:
        serving.over = True
        thread.join()


def test_a_worker_is_let_in_once_and_messages_go_both_ways(serve: Callable[..., Serving]) -> None:
    serving = serve()
    serving.door.expect("ticket", WELCOME)
    connection, welcome = serving.dial()
    assert welcome == WELCOME
    wait_until(lambda: serving.arrived, "nobody arrives")
    line: Line = serving.arrived[0].line
    assert serving.arrived[0].hello.process == os.getpid()
    connection.sendall(framed(encode(Want(None))))
    wait_until(lambda: serving.heard, "nothing is heard")
    assert decode_event(serving.heard[0], "worker-1") == Want(None)
    line.send(Stop("key"))
    assert decode_order(read_frame(connection)) == Stop("key")
    with pytest.raises(Refused, match="does not wait for this worker"):
        serving.dial()
    wait_until(lambda: serving.away, "the sweep is not told")


def test_a_worker_that_was_started_here_waits_for_a_sweep_that_is_stopped(
    serve: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with Ctrl-Z, while the worker starts, and an hour later `fg`."""
    monkeypatch.setattr("sweeper.executors.door.dial._ANSWER_SECONDS", 0.05)
    serving, (ours, theirs) = serve(), socket.socketpair()
    serving.door.expect("ticket", WELCOME)
    threading.Timer(0.3, serving.handed_on.append, [ours]).start()
    connection, welcome = inherit(theirs.detach(), KEY, "ticket")
    assert welcome == WELCOME
    assert not connection.get_inheritable()


def test_small_messages_are_sent_at_once_and_a_silent_machine_is_noticed(serve: Callable[..., Serving]) -> None:
    serving = serve()
    serving.door.expect("ticket", WELCOME)
    connection, _ = serving.dial()
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


def test_a_worker_of_other_versions_is_refused_and_both_sides_say_which(serve: Callable[..., Serving]) -> None:
    here = {**versions_of(["dpo-sweeper", "pydantic"]), "pydantic": "1.0", "no-such-package": "7"}
    serving = serve(versions=here)
    serving.door.expect("ticket", WELCOME)
    with pytest.raises(
        Refused, match=r"pydantic 2\..* where the sweep has 1\.0.*no-such-package \(none\) where"
    ) as told:
        serving.dial()
    wait_until(lambda: serving.away, "the sweep is not told")
    assert serving.away[0].why == str(told.value)
    assert "install the same there" in str(told.value)


def test_a_worker_of_the_same_versions_is_let_in(serve: Callable[..., Serving]) -> None:
    serving = serve(versions=versions_of(["dpo-sweeper", "torch"]))
    serving.door.expect("ticket", WELCOME)
    assert serving.dial()[1] == WELCOME


def of_folder(folder: Path, told: Path | None = None) -> Welcome:
    name, holds = leave_mark(folder)
    return Welcome("worker-1", "formula", str(told or folder), name, holds)


def test_a_worker_that_shares_the_folder_is_let_in_and_leaves_no_file(
    serve: Callable[..., Serving], tmp_path: Path
) -> None:
    serving = serve()
    serving.door.expect("ticket", of_folder(tmp_path))
    serving.dial()
    wait_until(lambda: serving.arrived, "it does not come in")
    assert [path.name for path in tmp_path.iterdir()] == ["door.mark"], "which is the sweep's own"


def test_a_worker_that_does_not_see_the_folder_is_refused(serve: Callable[..., Serving], tmp_path: Path) -> None:
    serving, elsewhere = serve(), tmp_path / "elsewhere"
    serving.door.expect("ticket", of_folder(tmp_path, elsewhere))
    with pytest.raises(Refused, match=r"does not see the folder .*elsewhere as the sweep does.*mount the file system"):
        serving.dial()
    wait_until(lambda: serving.away, "the sweep is not told")
    assert not serving.arrived


def test_a_worker_whose_file_the_sweep_does_not_see_is_refused(
    serve: Callable[..., Serving], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where both have a folder of this name with the same content, each its own."""
    monkeypatch.setattr(door_module, "SHARE_SECONDS", 0.3)
    monkeypatch.setattr("sweeper.executors.door.dial.answer_mark", lambda _: ".seen-0123456789abcdef")
    serving = serve()
    serving.door.expect("ticket", of_folder(tmp_path))
    with pytest.raises(Refused, match="does not see what it wrote"):
        serving.dial()
    assert not serving.arrived


def test_the_wrong_key_gets_no_word_and_a_false_sweep_no_worker(serve: Callable[..., Serving]) -> None:
    serving = serve()
    serving.door.expect("ticket", WELCOME)
    with pytest.raises(NobodyThere, match="is the key the same"):
        serving.dial(key=b"another key for tests")
    assert not serving.arrived
    assert not serving.away
    assert serving.dial()[1] == WELCOME

    def lie(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.sendall(framed(json.dumps(["sweeper", PROTOCOL, new_nonce(), []]).encode()))
        read_frame(connection)
        connection.sendall(framed(sealed(b"no key of ours at all", "sweep", ("a", "b"), WELCOME)))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lie, args=(listener,), daemon=True).start()
        with pytest.raises(NobodyThere, match="a wrong proof"):
            dial([f"127.0.0.1:{listener.getsockname()[1]}"], KEY, "ticket", patience=0)


def test_what_was_overheard_cannot_be_said_again(serve: Callable[..., Serving]) -> None:
    serving = serve()
    serving.door.expect("ticket", WELCOME)
    stranger, mine = serving.connect(), new_nonce()
    nonce, _ = heard_first(read_frame(stranger))
    overheard = framed(sealed(KEY, "worker", (nonce, mine), hello_of("ticket", 0, [])))
    again = serving.connect()
    again.sendall(overheard)
    read_frame(again)  # the sweep's first words
    assert again.recv(100) == b""
    assert not serving.arrived


def http(stranger: socket.socket) -> None:
    stranger.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")


def a_gigabyte(stranger: socket.socket) -> None:
    stranger.sendall((1 << 30).to_bytes(4, "big") + bytes(1 << 16))


def nonsense(stranger: socket.socket) -> None:
    stranger.sendall(framed(b"\xff" * 100))


def deep(stranger: socket.socket) -> None:
    stranger.sendall(framed(b"[" * 10_000))


@pytest.mark.parametrize("attack", [http, a_gigabyte, nonsense, deep])
def test_garbage_is_hung_up_on(serve: Callable[..., Serving], attack: Callable[[socket.socket], None]) -> None:
    serving, deadline = serve(), time.monotonic() + PATIENCE
    stranger = serving.connect()
    attack(stranger)
    read_frame(stranger)  # the sweep's first words
    with pytest.raises((EOFError, ConnectionError)):
        read_frame(stranger)
    assert time.monotonic() < deadline
    serving.door.expect("ticket", WELCOME)
    assert serving.dial()[1] == WELCOME


def test_slow_and_silent_strangers_keep_no_worker_out_and_are_hung_up_on_in_the_end(
    serve: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "KNOCK_SECONDS", 0.5)
    serving = serve()
    strangers = [serving.connect() for _ in range(50)]
    for slow in strangers[:25]:
        slow.sendall(b"\x00\x00")  # half a length; the others are silent
    serving.door.expect("ticket", WELCOME)
    assert serving.dial()[1] == WELCOME
    for stranger in strangers:
        read_frame(stranger)
        assert stranger.recv(1) == b""


def test_of_too_many_who_knock_the_oldest_goes(serve: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_NEWCOMERS >= 256, "a cluster may come at once"
    monkeypatch.setattr(door_module, "MOST_NEWCOMERS", 10)
    serving = serve()
    strangers = [serving.connect() for _ in range(40)]
    read_frame(strangers[0])
    assert strangers[0].recv(1) == b""
    serving.door.expect("ticket", WELCOME)
    assert serving.dial()[1] == WELCOME


def test_strangers_push_out_no_worker_that_has_shown_the_key(
    serve: Callable[..., Serving], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come while a worker on another machine shows that it sees the folder."""
    monkeypatch.setattr(door_module, "MOST_NEWCOMERS", 5)
    serving, strangers = serve(), list[socket.socket]()

    def answer(welcome: Welcome) -> str:
        strangers.extend(serving.connect() for _ in range(20))
        read_frame(strangers[-1])
        return answer_mark(welcome)

    monkeypatch.setattr("sweeper.executors.door.dial.answer_mark", answer)
    serving.door.expect("ticket", of_folder(tmp_path))
    assert serving.dial()[1].name == "worker-1"


def test_many_strangers_cost_little(serve: Callable[..., Serving]) -> None:
    serving = serve()
    for _ in range(300):
        with serving.connect() as stranger:
            nonsense(stranger)
    serving.door.expect("ticket", WELCOME)
    serving.dial()
    time.sleep(0.2)
    assert serving.seconds < 0.6, "2 ms of CPU each"  # .1 on an idle core


def test_nobody_there_is_told_with_what_was_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(NobodyThere, match=rf"127\.0\.0\.1:{port}: Connection refused"):
        dial([f"127.0.0.1:{port}"], KEY, "ticket", patience=0)


def test_the_first_address_that_answers_is_taken(serve: Callable[..., Serving]) -> None:
    serving = serve()
    serving.door.expect("ticket", WELCOME)
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    assert dial([nobody, serving.address], KEY, "ticket", patience=0)[2] == serving.address


def test_it_listens_at_the_address_that_it_is_given_alone_where_that_is_its_own() -> None:
    for host, everywhere in (("127.0.0.1", False), ("203.0.113.7", True), ("", True)):
        door = Door(KEY)
        port = door.listen(host, 0)
        with socket.socket() as other:
            taken = other.connect_ex(("127.0.0.2", port)) == 0
        assert taken is everywhere
        with pytest.raises(OSError, match="in use"):
            Door(KEY).listen(host if not everywhere else "", port)
        door.close()


def test_a_key_is_made_once_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWEEPER_KEY", raising=False)
    file = tmp_path / "door.key"
    key = make_key(file)
    assert make_key(file) == key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key_in({"SWEEPER_KEY_FILE": str(file)}) == key
    monkeypatch.setenv("SWEEPER_KEY", "of the environment, which counts first")
    assert make_key(file) == b"of the environment, which counts first"
    assert key_in({"SWEEPER_KEY_FILE": str(file)}) == make_key(file), "workers that share the folder know it too"
    file.chmod(0o640)
    with pytest.raises(ValueError, match="chmod 600"):
        key_in({"SWEEPER_KEY_FILE": str(file)})


@pytest.mark.parametrize(
    ("environment", "told"), [({}, "no key: set SWEEPER_KEY"), ({"SWEEPER_KEY": "short"}, "5 characters, and needs 16")]
)
def test_no_key_and_a_short_one_are_refused(environment: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        key_in(environment)


def test_addresses_are_told_with_this_machine_s_own_last() -> None:
    assert own_addresses()[-1] == "127.0.0.1"
    assert split_address("here:4711") == ("here", 4711)
    assert split_address("here") == ("here", None)
    for wrong in ("here:", ":1", "here:x", "here:70000"):
        with pytest.raises(ValueError, match="HOST:PORT"):
            split_address(wrong)
