"""VMs start and stop all the time while PostgreSQL restarts, dies and freezes: no command is lost."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from engine.db.local_postgres import LocalPostgres
from tests.cluster.lab import Json, Lab, laboratory

pytestmark = pytest.mark.timeout(300)

VMS = 4


class Load:
    """One task a VM, which runs it and stops it again and again until told to end."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.ended: list[Json] = []
        self._over = asyncio.Event()

    async def work(self, name: str) -> None:
        lab = self.lab
        while not self._over.is_set():
            for action in ("run", "stop"):
                end = await lab.ended(await self._asked(f"/v1/vms/{name}/{action}"))
                self.ended.append(end)
                assert end["state"] == "succeeded", end
                await lab.free(end)

    async def _asked(self, path: str) -> Json:
        """Accepted once, however often it has to be asked for."""
        key = str(uuid.uuid4())
        while True:
            try:
                answer = await self.lab.http.post(path, json={}, headers={"Idempotency-Key": key})
            except httpx.TransportError:
                continue
            if answer.is_success:
                return dict(answer.json())
            assert answer.status_code in (409, 503), answer.text
            await asyncio.sleep(0.1)

    def end(self) -> None:
        self._over.set()

    async def more(self, number: int) -> None:
        """So many more have ended."""
        wanted = len(self.ended) + number

        async def there() -> bool:
            return len(self.ended) >= wanted

        await self.lab.until(there, seconds=90, what="commands go on")


@pytest.fixture
async def lab(tmp_path: Path, own_postgres: LocalPostgres) -> AsyncIterator[Lab]:
    async with laboratory(tmp_path / "state", database_url=own_postgres.url()) as lab:
        for number in range(VMS):
            await lab.post("/v1/vms", {"name": f"vm-{number}", "memory_bytes": 2**28})
        lab.begin()
        yield lab


async def test_no_command_is_lost_or_doubled_while_postgresql_comes_and_goes(
    lab: Lab, own_postgres: LocalPostgres
) -> None:
    load = Load(lab)

    async def all_say(database: str) -> None:
        async def so() -> bool:
            members = (await lab.get("/v1/members"))["members"]
            return {member["db"] for member in members} == {database}

        await lab.until(so, what=f"all engines find the database {database}")

    async with asyncio.TaskGroup() as group:
        for number in range(VMS):
            group.create_task(load.work(f"vm-{number}"))
        await load.more(VMS)
        await asyncio.to_thread(own_postgres.restart)
        await load.more(2 * VMS)
        own_postgres.kill()
        await all_say("down")
        await asyncio.to_thread(own_postgres.start)
        await load.more(2 * VMS)
        own_postgres.freeze()
        await all_say("down")
        own_postgres.thaw()
        await load.more(2 * VMS)
        load.end()
    creates = Counter(request.op for request in lab.asked("VM.create"))
    assert max(creates.values()) == 1
    runs = [end for end in load.ended if end["type"] == "run_vm"]
    assert len(creates) == len(runs) == len(load.ended) / 2
