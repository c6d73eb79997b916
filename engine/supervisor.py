"""The small parent of an engine process: ends its session when it dies, and starts it again.

The child tells, over a pipe, each ZooKeeper session before it writes in it, and then beats from
its event loop. When the child is dead, or its beat is older than its authority, the supervisor
kills its process group, reaps it, drains the pipe and closes the session: its ephemeral nodes
vanish at once and the takeover begins in milliseconds instead of a session timeout later. Only
after the reaping, so that no verb of the dead can follow its session.

It imports neither kazoo nor asyncio and parses no configuration: little in it can fail. Started by
`engine node`; each of the two ends when the other does (parent-death signal, end of file).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.clock import boottime
from engine.coordination.closing import close_session
from engine.coordination.identity import SessionIdentity, TlsSettings
from engine.processes import leashed
from engine.systemd import notify

LOG = logging.getLogger("engine.supervisor")

PAUSE_STEP_SECONDS = 10.0
"""How often systemd hears of a supervisor that waits before it starts a child again."""
STARTUP_SECONDS = 60.0
"""How long a child may take until its first beat: imports and configuration on a busy machine."""
STOP_SECONDS = 30.0
"""How long a drain may take before the child is killed."""
WATCHDOG_SECONDS = 1.0
"""How often systemd hears of a beat at most."""
BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses before restart number 1, 2, ... of a child that ended; one that ran for `STEADY_SECONDS` starts
over at the first."""
STEADY_SECONDS = 60.0
SILENT_BACKOFF_SECONDS = (0.2, 2.0, 8.0, 20.0, 40.0, 60.0)
"""Of a child that was killed because it was silent. Where that happens again and again the machine has
too much to do, and starting engines is most of it: imports, and the takeover of all that the dead one had."""
FORGIVING_SECONDS = 300.0
"""A child that ran for so long makes up for one that was silent."""


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session of the child, and what it takes to close it."""

    hosts: str
    identity: SessionIdentity
    tls: TlsSettings | None


class Child:
    """One run of the engine process, as its pipe tells it."""

    def __init__(self, argv: Sequence[str]) -> None:
        read_fd, write_fd = os.pipe()
        command = leashed([*argv, "--supervisor-fd", str(write_fd)])
        try:
            self.process = subprocess.Popen(command, pass_fds=(write_fd,), process_group=0)
        finally:
            os.close(write_fd)
        os.set_blocking(read_fd, False)
        self.pipe = read_fd
        self.pidfd = os.pidfd_open(self.process.pid)
        self.started = boottime()
        self.act_until = self.started + STARTUP_SECONDS
        self.sessions: dict[int, OpenSession] = {}
        self.ready = False
        self.silent = False
        self.beats = 0
        self._partial = b""

    def read_pipe(self) -> bool:
        """Take in what the child has said; False at end of file."""
        while True:
            try:
                data = os.read(self.pipe, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                self._hear(json.loads(line))

    def _hear(self, said: dict[str, Any]) -> None:
        match said["say"]:
            case "beat":
                self.act_until = float(said["until"])
                self.beats += 1
            case "session":
                identity = SessionIdentity(
                    session_id=said["id"],
                    password=bytes.fromhex(said["password"]),
                    timeout_seconds=said["timeout"],
                )
                tls = TlsSettings(**said["tls"]) if said["tls"] else None
                self.sessions[identity.session_id] = OpenSession(said["hosts"], identity, tls)
            case "ended":
                self.sessions.pop(said["id"], None)
            case "ready":
                self.ready = True

    def kill(self) -> None:
        """End the whole process group, reap it, and read its last words."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.read_pipe()

    def close_sessions(self) -> None:
        """Close what sessions it left open. Called only after `kill`."""
        for session in self.sessions.values():
            try:
                close_session(session.hosts, session.identity, tls=session.tls)
            except Exception:  # whatever it is, the session timeout decides then
                LOG.exception("session %x could not be closed", session.identity.session_id)
            else:
                LOG.info("session %x closed", session.identity.session_id)
        self.sessions.clear()

    def dispose(self) -> None:
        os.close(self.pipe)
        os.close(self.pidfd)


class Restarts:
    """How long to wait before each restart. Pauses after silence are spread, or the engines of one
    overloaded machine would come back together."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._ended = 0
        self._silent = 0

    def pause_seconds(self, *, lasted_seconds: float, silent: bool) -> float:
        """`silent`: it was killed for that, after so long; else it ended by itself."""
        self._silent = max(0, self._silent - int(lasted_seconds // FORGIVING_SECONDS))
        if lasted_seconds > STEADY_SECONDS:
            self._ended = 0
        if silent:
            self._silent += 1
            first, *later = SILENT_BACKOFF_SECONDS
            if self._silent == 1:
                return first
            return later[min(self._silent - 2, len(later) - 1)] * (0.5 + self._chance())
        self._ended += 1
        return BACKOFF_SECONDS[min(self._ended - 1, len(BACKOFF_SECONDS) - 1)]


class Supervisor:
    """Runs one child after another until told to stop."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = argv
        self.stop_signals = 0
        self._reloads = 0
        self.stop_by: float | None = None
        self._restarts = Restarts()
        self._told: set[str] = set()
        self._watchdog_due = 0.0
        self._wakeup, wakeup_write = os.pipe()
        for fd in (self._wakeup, wakeup_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGHUP, self._on_reload_signal)

    def run(self) -> int:
        """Exit status: 0 after a stop that was asked for, else the child's own refusal (2..127)."""
        while True:
            child = Child(self.argv)
            status = self._watch(child)
            lasted = boottime() - child.started
            if self.stop_signals:
                return 0 if status == 0 else 1
            if status == os.EX_CONFIG:
                return status  # it said why; starting again would say the same
            if status == os.EX_TEMPFAIL:
                LOG.info("engine ended after %.1f s, to be started again", lasted)
                continue
            pause = self._restarts.pause_seconds(lasted_seconds=lasted, silent=child.silent)
            LOG.warning("engine ended with status %s after %.1f s; restart in %.1f s", status, lasted, pause)
            if self._sleep(pause):
                return 0

    def _watch(self, child: Child) -> int:
        poll = select.poll()
        for fd in (child.pipe, child.pidfd, self._wakeup):
            poll.register(fd, select.POLLIN)
        try:
            forwarded = reloaded = 0
            self._reloads = 0  # whoever starts now has read what there is
            while True:
                due = child.act_until if self.stop_by is None else min(child.act_until, self.stop_by)
                ready = {fd for fd, _ in poll.poll(max(0.0, due - boottime()) * 1000 + 1)}
                self._drain_wakeup()
                if child.pipe in ready and not child.read_pipe():
                    poll.unregister(child.pipe)
                if child.pidfd in ready:
                    break
                if forwarded < self.stop_signals:
                    forwarded = self.stop_signals
                    child.process.send_signal(signal.SIGTERM if forwarded == 1 else signal.SIGKILL)
                if reloaded < self._reloads:
                    reloaded = self._reloads
                    child.process.send_signal(signal.SIGHUP)
                self._announce(child)
                # Read once more before judging: after a freeze of us alone its newer beats lie in the pipe.
                if boottime() >= child.act_until:
                    child.read_pipe()
                if boottime() >= child.act_until:
                    LOG.error("engine %d is silent past its authority; killing it", child.process.pid)
                    child.silent = True
                    break
                if self.stop_by is not None and boottime() >= self.stop_by:
                    LOG.error("engine %d did not stop in time; killing it", child.process.pid)
                    break
            child.kill()
            child.close_sessions()
            return child.process.returncode
        finally:
            child.dispose()

    def _on_stop_signal(self, number: int, _frame: object) -> None:
        self.stop_signals += 1
        if self.stop_by is None:
            self.stop_by = boottime() + STOP_SECONDS

    def _on_reload_signal(self, number: int, _frame: object) -> None:
        """The engine drains, ends, and is started again: with what is installed and configured then."""
        self._reloads += 1

    def _announce(self, child: Child) -> None:
        """Tell systemd what is new; what it does not take in now is told again at the next beat."""
        if child.ready and "READY=1" not in self._told and notify("READY=1"):
            self._told.add("READY=1")
        if self.stop_signals and "STOPPING=1" not in self._told and notify("STOPPING=1"):
            self._told.add("STOPPING=1")
        if child.beats and boottime() >= self._watchdog_due:
            child.beats = 0
            self._watchdog_due = boottime() + WATCHDOG_SECONDS
            notify("WATCHDOG=1")

    def _drain_wakeup(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wakeup, 512):
                pass

    def _sleep(self, seconds: float) -> bool:
        """Wait between two runs; True when told to stop meanwhile."""
        deadline = boottime() + seconds
        while not self.stop_signals and (left := deadline - boottime()) > 0:
            # A long pause and a slow start after it would together outlast systemd's patience.
            notify("WATCHDOG=1")
            select.select([self._wakeup], [], [], min(left, PAUSE_STEP_SECONDS))
            self._drain_wakeup()
        return bool(self.stop_signals)


def main() -> int:
    """`python -m engine.supervisor ARGUMENTS`: supervise `python -m engine.service ARGUMENTS`."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"
    )
    argv = [sys.executable, "-m", "engine.service", *sys.argv[1:]]
    return Supervisor(argv).run()


if __name__ == "__main__":
    sys.exit(main())
