"""A connection whose other end vanishes without a word, such as a node without power, is ended by the system."""

import socket
from typing import Any, Final

#: Seconds of silence, seconds between probes, probes; and milliseconds that what was sent may stay unacknowledged.
_LOST_PEER: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}


def notice_a_lost_peer(connected: Any) -> None:
    """Have a TCP socket ended within half a minute after its other end has vanished; None is no socket."""
    if connected is None:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _LOST_PEER.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
