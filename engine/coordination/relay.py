"""A TCP relay that can be frozen: cuts two processes off from each other without ending either.

Frozen, it takes no byte from either side, as a network that drops every packet; thawed, what was
under way arrives. Severed, it resets what is open. One thread serves all links of a relay. It is
for tests and demonstrations on one machine.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

_CHUNK = 1 << 16


class Link:
    """One listening port on 127.0.0.1 that leads to `target`."""

    def __init__(self, relay: Relay, target: tuple[str, int]) -> None:
        self._relay = relay
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.hosts = f"127.0.0.1:{self.port}"
        self.frozen = False
        self.muted = False
        self.severed = False
        self._targets: set[socket.socket] = set()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._backlog: dict[socket.socket, bytes] = {}

    def freeze(self) -> None:
        """Carry nothing from now on, in either direction; connections stay open."""
        self._relay.do(lambda: setattr(self, "frozen", True))

    def mute(self) -> None:
        """Carry what is asked, but not what is answered."""
        self._relay.do(lambda: setattr(self, "muted", True))

    def thaw(self) -> None:
        """Carry on, also after `mute` and `sever`."""
        self._relay.do(self._thaw)

    def sever(self) -> None:
        """Reset all connections and refuse new ones until `thaw`."""
        self._relay.do(self._sever)

    def reset(self) -> None:
        """Reset all connections; new ones are served."""
        self._relay.do(self._reset)

    def retarget(self, target: tuple[str, int]) -> None:
        """Lead new connections elsewhere."""
        self._relay.do(lambda: setattr(self, "target", target))

    # --- in the relay's thread --------------------------------------------------------------------

    def _interests(self) -> list[tuple[socket.socket, int]]:
        if self.frozen:
            return []
        wanted = [(self._listener, selectors.EVENT_READ)]
        for near, far in self._pairs.items():
            silent = far in self._backlog or (self.muted and near in self._targets)
            events = 0 if silent else selectors.EVENT_READ
            events |= selectors.EVENT_WRITE if near in self._backlog else 0
            if events:
                wanted.append((near, events))
        return wanted

    def _ready(self, sock: socket.socket, events: int) -> None:
        if sock is self._listener:
            self._accept()
            return
        if events & selectors.EVENT_WRITE and sock in self._pairs:
            self._push(sock, self._backlog.pop(sock, b""))
        if events & selectors.EVENT_READ and sock in self._pairs:
            self._pull(sock)

    def _accept(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        if self.severed:
            _abort(near)
            return
        try:
            far = socket.create_connection(self.target, timeout=1)
        except OSError:
            _abort(near)
            return
        self._targets.add(far)
        for one, other in ((near, far), (far, near)):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs[one] = other

    def _pull(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._push(self._pairs[sock], data)
        else:
            self._drop(sock)

    def _push(self, sock: socket.socket, data: bytes) -> None:
        try:
            sent = sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(sock)
            return
        if sent < len(data):
            self._backlog[sock] = data[sent:]

    def _drop(self, sock: socket.socket) -> None:
        far = self._pairs.pop(sock)
        del self._pairs[far]
        for end in (sock, far):
            self._backlog.pop(end, None)
            self._targets.discard(end)
            end.close()

    def _reset(self) -> None:
        for sock in self._pairs:
            _abort(sock)
        self._pairs.clear()
        self._backlog.clear()
        self._targets.clear()

    def _sever(self) -> None:
        self.severed = True
        self._reset()

    def _thaw(self) -> None:
        self.frozen = self.muted = self.severed = False

    def _close(self) -> None:
        self._reset()
        self._listener.close()


class Relay:
    """Links and the one thread that serves them; a context manager."""

    def __init__(self) -> None:
        self._links: list[Link] = []
        self._orders: list[tuple[Callable[[], None], threading.Event]] = []
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="relay", daemon=True)
        self._thread.start()

    def link(self, port: int, host: str = "127.0.0.1") -> Link:
        """Open a new way to `host:port`."""
        link = Link(self, (host, port))
        self.do(lambda: self._links.append(link))
        return link

    def close(self) -> None:
        if not self._closed:
            self.do(self._stop)
            self._thread.join()
            self._wake_read.close()
            self._wake_write.close()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def do(self, order: Callable[[], None]) -> None:
        """Run `order` in the relay's thread and return when it is done."""
        done = threading.Event()
        with self._lock:
            self._orders.append((order, done))
        self._wake_write.send(b"\0")
        if not done.wait(10):
            raise TimeoutError("the relay's thread does not answer")

    def _stop(self) -> None:
        self._closed = True
        for link in self._links:
            link._close()
        self._links.clear()

    def _serve(self) -> None:
        while not self._closed:
            with selectors.DefaultSelector() as selector:
                selector.register(self._wake_read, selectors.EVENT_READ, None)
                for link in self._links:
                    for sock, events in link._interests():
                        selector.register(sock, events, link)
                for key, events in selector.select():
                    if key.data is None:
                        self._obey()
                    elif not key.data.frozen and isinstance(key.fileobj, socket.socket):
                        key.data._ready(key.fileobj, events)

    def _obey(self) -> None:
        self._wake_read.recv(_CHUNK)
        with self._lock:
            orders, self._orders = self._orders, []
        for order, done in orders:
            order()
            done.set()


def _abort(sock: socket.socket) -> None:
    """Close with a reset instead of a farewell."""
    with contextlib.suppress(OSError):  # closed by the other side already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
