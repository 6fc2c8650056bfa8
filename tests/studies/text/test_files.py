"""Files in folders that others have filled: read as what they are or refused with a word, never waited for."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from studies.text.files import (
    UnusableFile,
    open_file,
    read_bytes,
    read_json,
    safetensors_header,
    write_whole,
)


def test_a_link_a_pipe_a_folder_and_what_is_too_long_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("[1]")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("link", "nowhere", "pipe", "folder", "device"):
        with pytest.raises(UnusableFile, match=name):
            read_json(tmp_path / name)
    for name in ("pipe", "folder", "device"):
        with pytest.raises(UnusableFile, match=name):
            read_json(tmp_path / name, links=True)
    with pytest.raises(UnusableFile, match="more than"):
        read_bytes(tmp_path / "file", 2)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing")
    assert read_json(tmp_path / "link", links=True) == read_json(tmp_path / "file") == [1]


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"", b"{", b"\xff\xfe", b"1" * 5000, b"nan"])
def test_json_that_cannot_be_read_names_its_file(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "file").write_bytes(text)
    with pytest.raises(UnusableFile, match="file is no JSON that can be read"):
        read_json(tmp_path / "file")


def long(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        long(b"{}", 2**64 - 1),
        long(b"{}", 3),
        long(b"no"),
        long(b"[" * 100_000),
        long(b"[1]"),
        long(b"\xff"),
    ],
)
def test_the_header_of_a_damaged_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UnusableFile, match="file is no safetensors file"):
        safetensors_header(tmp_path / "file")


def test_what_is_written_goes_through_no_link_and_to_no_second_name(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    os.link(tmp_path / "precious", tmp_path / "second")
    for name in ("link", "second"):
        with pytest.raises(UnusableFile, match=name):
            open_file(tmp_path / name, os.O_RDWR | os.O_CREAT)
        with pytest.raises(UnusableFile, match=name):
            open_file(tmp_path / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        write_whole(tmp_path / name, "ours")
        assert (tmp_path / name).read_text() == "ours"
    assert (tmp_path / "precious").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "precious", "second"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_what_is_written_has_the_mode_of_the_users_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "file", json.dumps([1]))
        open_file(tmp_path / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT).close()
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "log")} == {0o666 & ~umask}
