"""The private PostgreSQL: it ends with its parent, keeps to itself, and says what is wrong."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import asyncpg
import pytest

from engine.db.local_postgres import LocalPostgres, find_binaries
from engine.errors import NotFound
from tests.contract.coordination.conftest import until

PARENT = """
import sys
from engine.db.local_postgres import LocalPostgres
server = LocalPostgres(durable=False)
server.start()
print(server.pid, server.directory, flush=True)
sys.stdin.read()
"""


def processes_in(directory: str) -> list[str]:
    """Pids of what works in this directory or below it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").readlink()).startswith(directory):
                found.append(process.name)
        except OSError:
            continue
    return found


async def test_it_ends_with_its_parent_and_so_do_all_its_processes() -> None:
    pipe = asyncio.subprocess.PIPE
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdin=pipe, stdout=pipe)
    assert parent.stdout is not None
    pid, directory = (await parent.stdout.readline()).decode().split()
    assert pid in processes_in(directory)
    parent.kill()
    await parent.wait()
    await until(lambda: not processes_in(directory))
    shutil.rmtree(directory)


async def test_what_was_committed_survives_a_kill_on_the_same_port(own_postgres: LocalPostgres) -> None:
    plain = own_postgres.url().replace("+asyncpg", "")
    connection = await asyncpg.connect(plain)
    await connection.execute("CREATE TABLE t AS SELECT 1 AS x")
    own_postgres.kill()
    own_postgres.start()
    again = await asyncpg.connect(plain)
    assert await again.fetchval("SELECT x FROM t") == 1
    await again.close()
    connection.terminate()


async def test_nobody_is_let_in_without_the_password(own_postgres: LocalPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(host="127.0.0.1", port=own_postgres.port, user="engine", password="guess")


def test_closing_it_leaves_no_file() -> None:
    with LocalPostgres(durable=False) as server:
        assert server.directory.exists()
    assert not server.directory.exists()


def test_a_directory_without_the_programs_is_told_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POSTGRES_BIN", str(tmp_path))
    with pytest.raises(NotFound, match=f"POSTGRES_BIN={tmp_path}"):
        find_binaries()
