"""Connections between the ranks of a run, which break when a rank or its machine is gone.

The system closes a dead process's connections at once, and TCP's keep-alive finds a machine without power in a minute.
Both need nothing of the other ranks' interpreters, which may be busy.
"""

import contextlib
import secrets
import selectors
import socket
from typing import Any

from torch import distributed

_GOODBYE = b"goodbye!"
_LOST = b"lost"  # and four bytes: the rank that is gone
_TOKEN = 16  # bytes by which a rank knows another


class Links:
    """The first rank's connections to all others, or another rank's to the first.

    Args:
        sockets: connected, by rank.
    """

    def __init__(self, sockets: dict[int, socket.socket]):
        self._sockets = sockets
        self._selector = selectors.DefaultSelector()
        for rank, link in sockets.items():
            link.setblocking(False)
            self._selector.register(link, selectors.EVENT_READ, rank)

    def lost(self, timeout: float) -> int | None:
        """A rank whose connection broke without a goodbye, within this many seconds; None if there is none."""
        if not self._selector.get_map():
            return None
        for key, _ in self._selector.select(timeout):
            link, rank = self._sockets[key.data], key.data
            try:
                said = link.recv(len(_GOODBYE))
            except BlockingIOError:
                continue
            except OSError:
                said = b""
            self._selector.unregister(link)
            if said != _GOODBYE:
                return int.from_bytes(said[len(_LOST) :], "big") if said.startswith(_LOST) else int(rank)
        return None

    def tell(self, lost: int) -> None:
        """Tell the connected ranks which one is gone."""
        self._send(_LOST + lost.to_bytes(4, "big"))

    def close(self) -> None:
        """Tell the other ranks that this one ends as it should."""
        self._send(_GOODBYE)
        self._selector.close()
        for link in self._sockets.values():
            link.close()

    def _send(self, message: bytes) -> None:
        for link in self._sockets.values():
            with contextlib.suppress(OSError):
                link.send(message)


def connect(rank: int, address: str, timeout: float = 60) -> Links:
    """Connect the first rank with all others; every rank must call it at the same point.

    Args:
        rank: of this process.
        address: of the first rank's machine.
        timeout: seconds to wait for the others.

    Raises:
        OSError: a rank could not be reached in that time.
    """
    others = distributed.get_world_size() - 1
    if rank == 0:
        with socket.create_server(("", 0)) as server:
            token = secrets.token_bytes(_TOKEN)
            _share([server.getsockname()[1], token])
            server.settimeout(timeout)
            sockets: dict[int, socket.socket] = {}
            while len(sockets) < others:
                link, _ = server.accept()
                link.settimeout(timeout)
                said = b""
                with contextlib.suppress(OSError):
                    said = link.recv(_TOKEN + 4, socket.MSG_WAITALL)
                if secrets.compare_digest(said[:_TOKEN], token):
                    sockets[int.from_bytes(said[_TOKEN:], "big")] = _keep_alive(link)
                else:
                    link.close()
            return Links(sockets)
    port, token = _share([None, None])
    link = socket.create_connection((address, port), timeout)
    link.sendall(token + rank.to_bytes(4, "big"))
    return Links({0: _keep_alive(link)})


def _share(values: list[Any]) -> list[Any]:
    distributed.broadcast_object_list(values, src=0)
    return values


def _keep_alive(link: socket.socket) -> socket.socket:
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return link
