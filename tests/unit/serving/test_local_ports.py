"""Ports that a local Ray wants and somebody has."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ray_canary.errors import ClusterError
from ray_canary.serving import local


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody who listens on a port of their own."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


def free() -> int:
    """Return a port that nobody has, whatever else runs on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def wanting(listener: socket.socket) -> local.Local:
    own = local.Local(haproxy=False, port=free(), dashboard_port=free(), client_port=free())
    return replace(own, http_port=listener.getsockname()[1])


def test_a_port_that_somebody_has_is_refused_at_once_with_who_that_is(listener: socket.socket) -> None:
    with pytest.raises(ClusterError, match=r"ports are taken: .*Serve.*, taken by \S+, pid \d+"):
        local._check_ports(wanting(listener))


def test_a_port_that_a_process_which_has_ended_still_closes_is_waited_for(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel shows no process for it any more.
    monkeypatch.setattr(local, "_holder", lambda port: "")
    closing = threading.Timer(0.3, listener.close)
    closing.start()
    local._check_ports(wanting(listener))
    closing.join()


def test_a_port_of_which_nobody_says_that_they_have_it_is_refused_in_the_end(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_holder", lambda port: "")
    monkeypatch.setattr(local, "CLOSING_S", 0.3)
    with pytest.raises(ClusterError, match="ports are taken"):
        local._check_ports(wanting(listener))
