"""A private ensemble of three servers, any of which can be cut off from the others.

They see each other through a relay, each by addresses of its own, so that a follower can lose its
leader while its clients stay connected: the case for which authority is renewed by writes alone.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.coordination.local import LocalServer, PeerAddress
from engine.coordination.relay import Link, Relay
from engine.errors import Unavailable
from engine.ports import free_port


class LocalEnsemble:
    """Three servers that see each other through a relay, so that any can be cut from its peers
    while its clients stay connected."""

    def __init__(self, directory: Path, *, tick_ms: int = 500) -> None:
        self._relay = Relay()
        numbers = (1, 2, 3)
        own = {n: PeerAddress(n, free_port(), free_port()) for n in numbers}
        self._links: dict[tuple[int, int], tuple[Link, Link]] = {
            (a, b): (self._relay.link(own[b].quorum_port), self._relay.link(own[b].election_port))
            for a in numbers
            for b in numbers
            if a != b
        }
        self.servers: tuple[LocalServer, ...] = tuple(
            LocalServer(
                directory / str(n),
                tick_ms=tick_ms,
                number=n,
                peers=tuple(own[m] if m == n else self._seen_by(n, m) for m in numbers),
            )
            for n in numbers
        )
        self.tick_seconds = tick_ms / 1000

    def _seen_by(self, viewer: int, other: int) -> PeerAddress:
        quorum, election = self._links[viewer, other]
        return PeerAddress(other, quorum.port, election.port)

    @property
    def hosts(self) -> str:
        return ",".join(server.hosts for server in self.servers)

    def start(self, *, wait: bool = True, timeout_seconds: float = 60.0) -> None:
        for server in self.servers:
            server.start(wait=False)
        if wait:
            self.ready(timeout_seconds)

    def ready(self, timeout_seconds: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_seconds
        for server in self.servers:
            server.ready(max(0.1, deadline - time.monotonic()))

    def leader(self) -> LocalServer:
        """The server that leads now. Raises `Unavailable` when there is none."""
        for server in self.servers:
            if server.running and server.mode() == "leader":
                return server
        raise Unavailable("the ensemble has no leader")

    def followers(self) -> tuple[LocalServer, ...]:
        return tuple(server for server in self.servers if server.running and server.mode() == "follower")

    def cut(self, server: LocalServer) -> None:
        """Freeze all traffic between `server` and its peers; its clients notice nothing yet."""
        for link in self._links_of(server):
            link.freeze()

    def heal(self, server: LocalServer) -> None:
        """Undo `cut`. What was under way is reset, as after a long outage, not delivered late."""
        for link in self._links_of(server):
            link.reset()
            link.thaw()

    def close(self) -> None:
        for server in self.servers:
            server.close()
        self._relay.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _links_of(self, server: LocalServer) -> list[Link]:
        number = self.servers.index(server) + 1
        return [link for pair, links in self._links.items() if number in pair for link in links]
