"""The sweep's end of a connection to a worker, or a host, that has been let in."""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress

from sweeper.executors.door.frames import Frames
from sweeper.executors.door.messages import Order, encode


class Line:
    """Sends orders and receives messages, never waiting for the other end. Equal to itself alone."""

    def __init__(self, frames: Frames, selector: selectors.BaseSelector) -> None:
        self._frames, self._selector = frames, selector
        self._interest = selectors.EVENT_READ
        selector.modify(frames.socket, self._interest, self)

    def send(self, order: Order) -> None:
        """Send an order, now or as soon as the other end takes it. A broken connection shows when it is read."""
        try:
            self._frames.send(encode(order))
        except OSError:
            with suppress(OSError):
                self._frames.socket.shutdown(socket.SHUT_RDWR)
        self._look()

    def flush(self) -> None:
        """Send what has waited; for when the connection takes it."""
        with suppress(OSError):
            self._frames.flush()
        self._look()

    def receive(self) -> list[bytes]:
        """See `Frames.receive`."""
        return self._frames.receive()

    def close(self) -> None:
        """End the connection."""
        with suppress(KeyError, ValueError):
            self._selector.unregister(self._frames.socket)
        self._frames.close()

    def _look(self) -> None:
        """Have the selector say when there is room again, as long as something waits to be sent."""
        wanted = selectors.EVENT_READ | (0 if self._frames.is_sent else selectors.EVENT_WRITE)
        if wanted != self._interest and self._frames.socket.fileno() >= 0:
            self._interest = wanted
            self._selector.modify(self._frames.socket, wanted, self)
