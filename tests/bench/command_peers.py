"""taskflow, for `bench_commands`: three-step flows on its ZooKeeper jobboard, persisted in PostgreSQL.

    python -m tests.bench.command_peers ZOOKEEPER DATABASE-URL FLOWS CONDUCTORS

Posts the flows, starts so many conductors (processes of itself: `... work ZOOKEEPER URL`), and prints
how many flows a second they brought to their end. It is in the extra `peers` and is left out where it is
not installed. Not part of the engine, and nothing of it is used there.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from engine.processes import leashed

NEEDS = ("taskflow", "psycopg2")
PATIENCE_SECONDS = 120.0
_NOTES = "PEER_NOTES"
_AT_ONCE = 10
_FACTORY = "tests.bench.command_peers.three_steps"


def three_steps(number: int) -> Any:
    """A flow whose last step notes when it was done. Named in the jobboard, so a conductor can make it."""
    from taskflow import task
    from taskflow.patterns import linear_flow

    class Nothing(task.Task):  # type: ignore[misc]
        def execute(self) -> None:
            return None

    class Last(task.Task):  # type: ignore[misc]
        def execute(self) -> None:
            with Path(os.environ[_NOTES], str(os.getpid())).open("a") as notes:
                notes.write(f"{number} {time.time()!r}\n")

    return linear_flow.Flow(f"flow-{number}").add(Nothing("one"), Nothing("two"), Last("three"))


def _board(name: str, zookeeper: str, url: str) -> tuple[Any, Any]:
    from taskflow.jobs import backends as boards
    from taskflow.persistence import backends

    kept = backends.fetch({"connection": url})
    found = {"board": "zookeeper", "hosts": zookeeper, "path": "/taskflow/jobs", "check_compatible": False}
    board = boards.fetch(name, found, persistence=kept)
    board.connect()
    return board, kept


def post(zookeeper: str, url: str, flows: int) -> None:
    from taskflow import engines
    from taskflow.persistence import models

    board, kept = _board("poster", zookeeper, url)
    connection = kept.get_connection()
    connection.upgrade()
    for number in range(flows):
        book = models.LogBook(f"book-{number}")
        detail = models.FlowDetail(f"flow-{number}", str(uuid.uuid4()))
        book.add(detail)
        engines.save_factory_details(detail, _FACTORY, (number,), {})
        connection.save_logbook(book)
        board.post(f"job-{number}", book=book, details={"flow_uuid": detail.uuid})
    board.close()


def work(zookeeper: str, url: str) -> None:
    from taskflow.conductors import backends as conductors

    name = f"conductor-{os.getpid()}"
    board, kept = _board(name, zookeeper, url)
    conductor = conductors.fetch(
        "nonblocking", name, board, engine="serial", persistence=kept, max_simultaneous_jobs=_AT_ONCE
    )
    conductor.run()


def _ends(directory: Path) -> dict[str, float]:
    lines = [line.split() for path in directory.iterdir() for line in path.read_text().splitlines()]
    return {number: float(at) for number, at in lines}


def database_of_its_own(url: str) -> str:
    """On the same server: in one database two Alembics would quarrel."""
    import psycopg2

    connection = psycopg2.connect(url.replace("+asyncpg", ""))
    connection.autocommit = True
    connection.cursor().execute("CREATE DATABASE taskflow")
    connection.close()
    return url.rpartition("/")[0].replace("+asyncpg", "+psycopg2") + "/taskflow"


def measure(zookeeper: str, url: str, flows: int, conductors: int) -> None:
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as notes:
        os.environ[_NOTES] = notes
        post(zookeeper, url, flows)
        argv = leashed([sys.executable, "-m", "tests.bench.command_peers", "work", zookeeper, url])
        running = [subprocess.Popen(argv, stderr=subprocess.DEVNULL) for _ in range(conductors)]
        try:
            until = time.monotonic() + PATIENCE_SECONDS
            while len(ends := _ends(Path(notes))) < flows and time.monotonic() < until:
                time.sleep(0.1)
        finally:
            for each in running:
                each.kill()
                each.wait()
    if len(ends) < 2:
        raise SystemExit("taskflow brought none of its flows to their end")
    took = max(ends.values()) - min(ends.values())  # from the first end: its start is not counted
    print(
        f"commands.rate.postgresql.taskflow: {(len(ends) - 1) / took:.4g} flows/s"
        f"  # {len(ends)} of {flows}, {conductors} conductors",
        flush=True,
    )


def main(argv: list[str]) -> int:
    missing = [module for module in NEEDS if importlib.util.find_spec(module) is None]
    if missing:
        print(f"# taskflow is left out: {', '.join(missing)} is not installed (extra 'peers')", flush=True)
        return 0
    logging.disable(logging.WARNING)
    if argv[0] == "work":
        work(*argv[1:])
        return 0
    zookeeper, url, flows, conductors = argv
    measure(zookeeper, database_of_its_own(url), int(flows), int(conductors))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
