"""A connection whose other end vanishes without a word, such as a node without power, is ended by the system."""

import socket
from typing import Any, Final

#: Seconds of silence, seconds between probes, probes. Not `TCP_USER_TIMEOUT`, which would find a vanished peer also
#: while something waits for its acknowledgement: Linux ends by it, too, the connection to one that lives and is slow to
#: read.
_LOST_PEER: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


def notice_a_lost_peer(connected: Any) -> None:
    """Have a silent TCP socket ended within half a minute after its other end has vanished; None is no socket.

    One on which something was just sent to nobody takes as long as the system sends it again: a quarter of an hour.
    """
    if connected is None:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _LOST_PEER.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
