"""Other schedulers, for `bench_scheduler`: jobs all due at one instant, on a PostgreSQL of their own.

    python -m tests.bench.job_peers apscheduler4|procrastinate|quartz JOBS PROCESSES

Loads the jobs, starts so many processes (of itself: `... NAME work URL`), and tells when all have started. A
peer that is not installed is told of and left out: pip install 'apscheduler==4.0.0a6' 'psycopg[binary,pool]'
procrastinate; for Quartz a JDK, and in QUARTZ_JARS the directory of its jars (default: where Debian's
libquartz2-java and libpostgresql-jdbc-java put them). Nothing of the engine is used by them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.db.local_postgres import LocalPostgres
from engine.processes import leashed

QUARTZ_JARS = ("quartz2.jar", "c3p0.jar", "slf4j-api.jar", "slf4j-simple.jar", "postgresql.jar")
AHEAD_SECONDS = 10.0
PATIENCE_SECONDS = 120.0
_file: int | None = None


async def noop(job: str, due: float) -> None:
    """The job: it notes its own start."""
    global _file
    if _file is None:
        path = Path(os.environ["PEER_NOTES"]) / str(os.getpid())
        _file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(_file, f"{job} {time.time()!r}\n".encode())


def lacking(*modules: str) -> list[str]:
    return [f"the module {name}" for name in modules if importlib.util.find_spec(name) is None]


class Apscheduler4:
    """APScheduler 4 with its SQLAlchemy store and psycopg's notifications."""

    @staticmethod
    def lacks() -> list[str]:
        return lacking("apscheduler", "psycopg")

    @staticmethod
    def worker(url: str) -> list[str]:
        return [sys.executable, "-m", "tests.bench.job_peers", "apscheduler4", "work", url]

    def __init__(self, url: str) -> None:
        self._url = url

    def _stores(self) -> tuple[Any, Any]:
        from apscheduler.datastores.sqlalchemy import SQLAlchemyDataStore
        from apscheduler.eventbrokers.psycopg import PsycopgEventBroker

        store = SQLAlchemyDataStore(self._url.replace("postgresql://", "postgresql+psycopg://"))
        return store, PsycopgEventBroker(self._url)

    async def load(self, jobs: int, due: float) -> None:
        from apscheduler import AsyncScheduler
        from apscheduler.triggers.date import DateTrigger

        async with AsyncScheduler(*self._stores(), identity="loader") as scheduler:
            await scheduler.configure_task("noop", func=noop, job_executor="async", max_running_jobs=None)
            for number in range(jobs):
                when = DateTrigger(datetime.fromtimestamp(due, UTC))  # it has a state: one each
                await scheduler.add_schedule(
                    "noop", when, id=str(number), args=(str(number), due), misfire_grace_time=None
                )

    async def work(self) -> None:
        from apscheduler import AsyncScheduler

        async with AsyncScheduler(*self._stores(), identity=f"worker-{os.getpid()}") as scheduler:
            await scheduler.start_in_background()
            await asyncio.Event().wait()


class Procrastinate:
    """procrastinate with ten jobs at once in each worker."""

    @staticmethod
    def lacks() -> list[str]:
        return lacking("procrastinate", "psycopg")

    @staticmethod
    def worker(url: str) -> list[str]:
        return [sys.executable, "-m", "tests.bench.job_peers", "procrastinate", "work", url]

    def __init__(self, url: str) -> None:
        import procrastinate

        self.app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))
        self.task = self.app.task(name="noop")(noop)

    async def load(self, jobs: int, due: float) -> None:
        async with self.app.open_async():
            await self.app.schema_manager.apply_schema_async()
            deferred = self.task.configure(schedule_at=datetime.fromtimestamp(due, UTC))
            for number in range(jobs):
                await deferred.defer_async(job=str(number), due=due)

    async def work(self) -> None:
        async with self.app.open_async():
            await self.app.run_worker_async(concurrency=10, install_signal_handlers=False)


class Quartz:
    """Quartz clustered through the database, ten threads a node, triggers acquired by ten."""

    def __init__(self, url: str) -> None:
        self._url = url

    @staticmethod
    def lacks() -> list[str]:
        if shutil.which("java") is None or "jdk.compiler" not in _said("java", "--list-modules"):
            return ["JDK"]
        return [str(jar) for jar in _jars() if not jar.exists()]

    async def load(self, jobs: int, due: float) -> None:
        program = Path(__file__).with_name("QuartzBurst.java")
        path = os.pathsep.join(map(str, _jars()))
        compiler = ["java", "-m", "jdk.compiler/com.sun.tools.javac.Main", "-cp", path, "-d", _classes()]
        for argv in ([*compiler, str(program)], _quartz("load", self._url, jobs, due)):
            await asyncio.to_thread(subprocess.run, argv, check=True)

    @staticmethod
    def worker(url: str) -> list[str]:
        return _quartz("work", url)


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def _jars() -> list[Path]:
    directory = Path(os.environ.get("QUARTZ_JARS", "/usr/share/java"))
    return [directory / jar for jar in QUARTZ_JARS]


def _classes() -> str:
    return os.environ["PEER_NOTES"] + ".classes"


def _quartz(what: str, url: str, *more: object) -> list[str]:
    user, _, rest = url.removeprefix("postgresql://").rpartition("@")
    name, _, password = user.partition(":")
    quiet = ["-Dcom.mchange.v2.log.MLog=com.mchange.v2.log.FallbackMLog"]
    quiet += ["-Dcom.mchange.v2.log.FallbackMLog.DEFAULT_CUTOFF_LEVEL=WARNING"]
    quiet += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]
    path = os.pathsep.join([_classes(), *map(str, _jars())])
    jdbc = f"jdbc:postgresql://{rest}?user={name}&password={password}"
    return ["java", *quiet, "-cp", path, "QuartzBurst", what, jdbc, *map(str, more)]


PEERS: dict[str, Any] = {"apscheduler4": Apscheduler4, "procrastinate": Procrastinate, "quartz": Quartz}


def starts(directory: Path) -> list[tuple[str, float]]:
    lines = [line.split() for path in directory.iterdir() for line in path.read_text().splitlines()]
    return sorted(((job, float(at)) for job, at in lines), key=lambda each: each[1])


@contextlib.contextmanager
def workers(name: str, url: str, count: int) -> Iterator[None]:
    argv = leashed(PEERS[name].worker(url))
    running = [subprocess.Popen(argv) for _ in range(count)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
        for each in running:
            each.wait()


def measure(name: str, jobs: int, processes: int) -> None:
    with LocalPostgres() as server, tempfile.TemporaryDirectory(prefix="engine-bench-") as directory:
        notes = Path(directory, "notes")
        notes.mkdir()
        os.environ["PEER_NOTES"] = str(notes)
        url = server.url().replace("+asyncpg", "")
        due = time.time() + AHEAD_SECONDS + jobs / 80
        asyncio.run(PEERS[name](url).load(jobs, due))
        late = max(0.0, time.time() - due)
        with workers(name, url, processes):
            deadline = max(due, time.time()) + PATIENCE_SECONDS
            while len(found := starts(notes)) < jobs and time.time() < deadline:
                time.sleep(0.2)
    took = found[-1][1] - max(due, due + late) if found else float("nan")
    print(
        f"{name}.burst_{jobs}.{processes}_processes.started: {len(found) / took:.1f} jobs/s"
        f"  # {len({job for job, _at in found})} of {jobs}, {len(found) - len(dict(found))} twice",
        flush=True,
    )


def main(argv: list[str]) -> int:
    name, what, *more = argv
    if what == "work":
        asyncio.run(PEERS[name](more[0]).work())
        return 0
    if lacks := PEERS[name].lacks():
        print(f"# {name} is left out: there is no {', no '.join(lacks)}", flush=True)
        return 0
    measure(name, int(what), int(more[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
