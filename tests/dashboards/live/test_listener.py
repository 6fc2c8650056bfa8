"""The page's place, which is there before the page is."""

import socket
from contextlib import closing

import pytest

pytest.importorskip("nicegui", reason="the page's library is not installed (extra `ui`)")


def test_who_follows_the_link_before_the_page_is_served_waits_and_is_not_refused() -> None:
    from dashboards.live.page.app import listener

    with closing(listener("127.0.0.1", 0)) as place:
        early = socket.create_connection(place.getsockname(), timeout=5)
        served, _ = place.accept()
        served.close()
        early.close()
        with pytest.raises(OSError, match="in use"):
            listener(*place.getsockname())


def test_an_address_of_the_sixth_version_takes_none_of_the_fourth() -> None:
    from dashboards.live.page.app import listener

    try:
        place = listener("::", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with closing(place), pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", place.getsockname()[1]), timeout=5)
