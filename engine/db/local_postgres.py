"""A private PostgreSQL as a child of this process: for tests and for clusters on one machine.

It listens on 127.0.0.1 only, keeps its data in a directory of its own, and ends when its parent
does. PostgreSQL refuses to be root's: root runs it as the user `postgres`, or as `nobody`. Tests also
kill, freeze and restart it. Everything here blocks; call `start` in the main thread (the kernel ends a
child with the *thread* that started it), and the rest in asyncio through `asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.errors import InvalidInput, NotFound, Unavailable
from engine.ports import free_port

_DEBIAN = Path("/usr/lib/postgresql")
_LOG_TAIL_LINES = 12
_USER = "engine"


def find_binaries() -> Path:
    """The directory with `initdb` and `postgres`: POSTGRES_BIN, else Debian's newest.

    Raises `NotFound` with the remedy.
    """
    if given := os.environ.get("POSTGRES_BIN"):
        if (Path(given) / "postgres").is_file():
            return Path(given)
        raise NotFound(f"POSTGRES_BIN={given} holds no program `postgres`")
    installed = [path.parent for path in _DEBIAN.glob("*/bin/postgres")]
    if not installed:
        raise NotFound("no PostgreSQL was found: install the package postgresql, or set POSTGRES_BIN")
    return max(installed, key=lambda path: float(path.parent.name))


class LocalPostgres:
    """One server. Its directory is made anew below `parent` (default: the temporary directory) and is
    removed by `close`; the port stays the same over restarts."""

    def __init__(
        self, parent: Path | None = None, *, durable: bool = True, settings: Sequence[str] = ()
    ) -> None:
        """`durable=False` trades safety against a power cut, not against a crash, for speed.

        `settings`: more `name=value`.
        """
        self._binaries = find_binaries()
        self._owner = _unprivileged() if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix="engine-postgres-", dir=parent))
        self._data = self.directory / "data"
        self.log_path = self.directory / "postgres.log"
        self._password = secrets.token_hex(16)
        self._durable = durable
        self._settings = tuple(settings)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def port(self) -> int:
        if not self._port:
            raise InvalidInput("this server has no port before it was started")
        return self._port

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """Of a database of this server, for SQLAlchemy; `port` is that of a relay to it."""
        return f"postgresql+asyncpg://{_USER}:{self._password}@127.0.0.1:{port or self.port}/{database}"

    # --- life -------------------------------------------------------------------------------------

    def start(self, *, timeout_seconds: float = 60.0) -> None:
        """Make the data directory if need be, and serve. Raises `Unavailable` with the log's end."""
        if self.running:
            return
        if not self._data.exists():
            self._initialise(timeout_seconds)
        if not self._port:
            self._port = free_port()
        (self._data / "postmaster.pid").unlink(missing_ok=True)  # of a killed server: its pid may be reused
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._as_owner([str(self._binaries / "postgres"), "-D", str(self._data), *self._options()]),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C at a terminal must not end it before its clients
            )
        self.ready(timeout_seconds)

    def ready(self, timeout_seconds: float = 60.0) -> None:
        """Return when the server takes connections."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if not self.running:
                raise Unavailable(f"PostgreSQL ended at once:\n{self.log_tail()}")
            if self._says_ready():
                return
            time.sleep(0.01)
        raise Unavailable(f"PostgreSQL was not ready within {timeout_seconds:g} s:\n{self.log_tail()}")

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """End it in order, cutting its clients off; kill it when it takes longer. Idempotent."""
        if self._process is None:
            return
        self.thaw()
        self._signal(signal.SIGINT)
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """As a crash: SIGKILL to the server and all its processes; a start recovers from the log."""
        if self._process is not None:
            for pid in (self._process.pid, *self._children()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            self._frozen = []

    def freeze(self) -> None:
        """SIGSTOP to all its processes: the kernel still accepts connections, nobody answers."""
        self._signal(signal.SIGSTOP)  # first, or it makes more of them
        self._frozen = [pid for pid in (self.pid, *self._children()) if pid is not None]
        for pid in self._frozen[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        while self._frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._frozen.pop(), signal.SIGCONT)

    def restart(self) -> None:
        """Stop and start on the same port and the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """`stop`, and forget the data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log_tail(self) -> str:
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
        except OSError:
            return ""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside -----------------------------------------------------------------------------------

    def _initialise(self, timeout_seconds: float) -> None:
        secret = self.directory / "password"
        secret.touch(mode=0o600)
        secret.write_text(self._password)
        if self._owner is not None:
            for path in (self.directory, secret):
                os.chown(path, self._owner.pw_uid, self._owner.pw_gid)
        command = [str(self._binaries / "initdb"), "-D", str(self._data), "-U", _USER, "--no-locale"]
        command += ["-E", "UTF8", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync"]
        done = subprocess.run(
            self._as_owner(command),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        secret.unlink()
        if done.returncode != 0:
            raise Unavailable(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _options(self) -> Iterator[str]:
        on = "on" if self._durable else "off"
        for setting in (
            "listen_addresses=127.0.0.1",
            f"port={self._port}",
            f"unix_socket_directories={self.directory}",
            "shared_buffers=32MB",
            "max_connections=200",
            "dynamic_shared_memory_type=mmap",  # nothing is left in /dev/shm by a crash
            f"fsync={on}",
            f"full_page_writes={on}",
            *self._settings,
        ):
            yield from ("-c", setting)

    def _as_owner(self, argv: list[str]) -> list[str]:
        """As the right user, and leashed to this thread. Not by `processes.leashed`: a change of user clears
        the parent-death signal, and the other user may not be able to run this Python. SIGQUIT ends
        PostgreSQL's children too, at once."""
        user = []
        if self._owner is not None:
            user = [f"--reuid={self._owner.pw_uid}", f"--regid={self._owner.pw_gid}", "--init-groups"]
        return ["setpriv", *user, "--pdeathsig=QUIT", "--", *argv]

    def _says_ready(self) -> bool:
        """The eighth line of postmaster.pid (PostgreSQL's pg_ctl looks there too)."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready" and lines[0] == str(self.pid)

    def _children(self) -> list[int]:
        try:
            return [
                int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            ]
        except OSError:
            return []

    def _signal(self, number: signal.Signals) -> None:
        if self.running and self._process is not None:
            os.kill(self._process.pid, number)


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:  # not from a package: POSTGRES_BIN
        return pwd.getpwnam("nobody")
