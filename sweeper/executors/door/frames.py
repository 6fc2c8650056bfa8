"""Frames: a stream of bytes cut into messages. Four bytes tell the length, big-endian, so many bytes follow."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Final

MOST_BYTES: Final = 128 << 20
"""Of a frame between a sweep and its workers, as of a `result.json`: the largest are results of very long runs."""
_LENGTH: Final = struct.Struct(">I")
_PIECE: Final = 1 << 18


class TooLong(OSError):
    """A frame is longer than its reader takes."""


class Frames:
    """The sweep's end of a connection: never waits for the other one. What cannot be sent at once is kept, at most one
    frame of the longest kind beyond what the system buffers.
    """

    def __init__(self, connection: socket.socket, most: int) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.most = most
        """The longest frame that is taken, in bytes."""
        self._read = bytearray()
        self._unsent = bytearray()

    @property
    def is_sent(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._unsent

    def receive(self) -> list[bytes]:
        """The frames that have come, [] where none is whole yet. Raises EOFError at the end of the connection, OSError
        where it is broken or a frame too long; frames before that are given first.
        """
        try:
            piece = self.socket.recv(_PIECE)
        except (BlockingIOError, InterruptedError):
            piece = None
        if piece == b"":
            raise EOFError
        self._read += piece or b""
        found, start = list[bytes](), 0
        while len(self._read) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._read, start)
            end = start + _LENGTH.size + length
            if length > self.most and not found:
                raise TooLong(f"a frame of {length} bytes, where {self.most} are the most")
            if length > self.most or end > len(self._read):
                break
            found.append(bytes(self._read[start + _LENGTH.size : end]))
            start = end
        del self._read[:start]
        return found

    def send(self, data: bytes) -> None:
        """Send a frame, now or as soon as `flush` can. Raises OSError where the connection is broken, or the other end
        takes nothing in.
        """
        self._unsent += framed(data)
        self.flush()
        if len(self._unsent) > MOST_BYTES:
            raise TooLong("the other end of the connection takes nothing in")

    def flush(self) -> None:
        """Send what can be sent now. Raises OSError where the connection is broken."""
        with suppress(BlockingIOError, InterruptedError):
            while self._unsent:
                del self._unsent[: self.socket.send(self._unsent[:_PIECE])]

    def close(self) -> None:
        """End the connection."""
        self.socket.close()


def framed(data: bytes) -> bytes:
    """The bytes of a frame."""
    return _LENGTH.pack(len(data)) + data


def read_frame(connection: socket.socket, most: int = MOST_BYTES) -> bytes:
    """Wait for a frame. Raises EOFError at the end of the connection, OSError where it breaks or is too long."""
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > most:
        raise TooLong(f"a frame of {length} bytes, where {most} are the most")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        piece = connection.recv(min(count - len(found), _PIECE))
        if not piece:
            raise EOFError
        found += piece
    return bytes(found)
