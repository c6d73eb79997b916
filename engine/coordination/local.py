"""Private ZooKeeper servers as children of this process (three that are one: `ensemble.py`).

They listen on 127.0.0.1 only, keep their data in one directory, and end when their parent does.
Tests and demonstrations also kill, freeze, cut and wipe them. Everything here blocks; in asyncio
use `start(wait=False)` in the main thread (the leash of a child is held by the *thread* that
started it) and the rest through `asyncio.to_thread`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.coordination.distribution import Distribution, find_zookeeper
from engine.coordination.relay import Link, Relay
from engine.errors import Conflict, InvalidInput, Unavailable
from engine.ports import free_port
from engine.processes import leashed

_MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
_LOG_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where one server of an ensemble reaches another (or listens, for its own number)."""

    number: int
    quorum_port: int
    election_port: int


class LocalServer:
    """One server. `port` 0 picks a free one; it stays the same over restarts."""

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        tick_ms: int = 500,
        distribution: Distribution | None = None,
        number: int = 0,
        peers: tuple[PeerAddress, ...] = (),
        extra: Mapping[str, str] | None = None,
    ) -> None:
        """`extra` adds lines to zoo.cfg (a TLS port, say)."""
        self.directory = directory
        self.tick_seconds = tick_ms / 1000
        self._tick_ms = tick_ms
        self._wanted_port = port
        self._port = port
        self._distribution = distribution
        self._number = number
        self._peers = peers
        self._extra = dict(extra or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._relay: Relay | None = None
        self.log_path = directory / "zookeeper.log"

    # --- addresses --------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        if not self._port:
            raise InvalidInput("this server has no port before it was started")
        return self._port

    @property
    def hosts(self) -> str:
        """The connection string of a client."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def link(self) -> Link:
        """A way to this server that can be frozen, severed and thawed; its `hosts` is for clients."""
        if self._relay is None:
            self._relay = Relay()
        return self._relay.link(self.port)

    # --- life -------------------------------------------------------------------------------------

    def start(self, *, wait: bool = True, timeout_seconds: float = 60.0) -> None:
        """Start the server; call it in the main thread. Raises `NotFound` (no ZooKeeper, no Java),
        `Conflict` (the port is taken), `Unavailable` (it did not come up)."""
        if self.running:
            return
        if self._distribution is None:
            self._distribution = find_zookeeper()
        if self._wanted_port:
            _require_free(self._wanted_port)
        elif not self._port:
            self._port = free_port()
        self.directory.mkdir(parents=True, exist_ok=True)
        arguments = self._write_configuration()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                leashed(arguments),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A session of its own: Ctrl-C at a terminal must not end it before its clients.
                start_new_session=True,
            )
        if wait:
            self.ready(timeout_seconds)

    def ready(self, timeout_seconds: float = 60.0) -> None:
        """Return when the server serves clients (in an ensemble: has a quorum)."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if not self.running:
                code = self._process.returncode if self._process is not None else "none"
                raise Unavailable(f"ZooKeeper ended at once (exit code {code}):\n{self.log_tail()}")
            if self.mode() is not None:
                return
            time.sleep(0.02)
        raise Unavailable(
            f"ZooKeeper on port {self._port} was not ready within {timeout_seconds:g} s:\n{self.log_tail()}"
        )

    def mode(self) -> str | None:
        """'standalone', 'leader' or 'follower'; None while it serves nobody."""
        for line in self.ask("srvr").splitlines():
            if line.startswith("Mode: "):
                return line.removeprefix("Mode: ").strip()
        return None

    def ask(self, word: str, timeout_seconds: float = 2.0) -> str:
        """Answer to a four-letter word (ruok, srvr, mntr); empty when there is none."""
        if not self._port:
            return ""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout_seconds) as connection:
                connection.sendall(word.encode("ascii"))
                return b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode("utf-8", "replace")
        except OSError:
            return ""

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """End the server in order; kill it when it takes longer. Idempotent."""
        if self._process is not None:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def close(self) -> None:
        """`stop`, and close all links."""
        self.stop()
        if self._relay is not None:
            self._relay.close()
            self._relay = None

    def kill(self) -> None:
        """SIGKILL: no farewell to anybody."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: the kernel still accepts connections, nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def restart(self, *, wait: bool = True) -> None:
        """Stop and start on the same port and the same data."""
        self.stop()
        self.start(wait=wait)

    def wipe(self) -> None:
        """Forget all data. The server must be stopped."""
        if self.running:
            raise InvalidInput("stop the server before wiping its data")
        shutil.rmtree(self.directory / "data", ignore_errors=True)

    def log_tail(self) -> str:
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside -----------------------------------------------------------------------------------

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)

    def _write_configuration(self) -> list[str]:
        assert self._distribution is not None
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        lines = [
            f"dataDir={data}",
            "clientPortAddress=127.0.0.1",
            f"clientPort={self._port}",
            f"tickTime={self._tick_ms}",
            f"minSessionTimeout={max(1000, 2 * self._tick_ms)}",
            "maxSessionTimeout=60000",
            "maxClientCnxns=0",
            "admin.enableServer=false",
            "4lw.commands.whitelist=ruok,srvr,mntr",
            "autopurge.snapRetainCount=3",
            "autopurge.purgeInterval=1",
            "preAllocSize=4096",
        ]
        if self._peers:
            # A server that believes itself elected, wrongly, waits initLimit ticks for followers.
            lines += ["initLimit=6", "syncLimit=10"]
            lines += [f"server.{p.number}=127.0.0.1:{p.quorum_port}:{p.election_port}" for p in self._peers]
            (data / "myid").write_text(f"{self._number}\n")
        lines += [f"{name}={value}" for name, value in self._extra.items()]
        path = self.directory / "zoo.cfg"
        path.write_text("\n".join(lines) + "\n")
        return [
            self._distribution.java,
            "-Xms32m",
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",
            "-Djava.net.preferIPv4Stack=true",
            "-Dzookeeper.jmx.log4j.disable=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
            "-cp",
            self._distribution.class_path,
            _MAIN,
            str(path),
        ]


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Conflict(
                f"port {port} for ZooKeeper is in use ({error.strerror}); stop what uses it or choose another"
            ) from error
