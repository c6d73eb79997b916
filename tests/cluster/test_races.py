"""Several ask for the same VM at the same moment: one has it, and every other is told who."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.cluster.lab import Json, Lab, laboratory

ROUNDS = 8
CONTENDERS = 3

pytestmark = pytest.mark.timeout(400)


class Race:
    """Rounds of run, then migrate, of one VM; each by contenders of their own, over all API workers."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.refused = 0

    async def round(self, path: str) -> Json:
        """The command of the one who won."""
        answers = await asyncio.gather(*(self._ask(path) for _ in range(CONTENDERS)))
        won = [answer.json() for answer in answers if answer.is_success]
        assert len(won) == 1, [answer.text for answer in answers]
        for answer in answers:
            if not answer.is_success:
                assert answer.status_code == 409, answer.text
                assert won[0]["id"] in answer.text, "whoever is refused is told by which command"
                self.refused += 1
        end = await self.lab.ended(won[0])
        assert end["state"] == "succeeded", end
        await self.lab.free(end)
        return end

    async def _ask(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(
            base_url=self.lab.cluster.api_url, timeout=30.0, trust_env=False
        ) as client:
            return await client.post(path, json={})

    async def run(self, rounds: int) -> None:
        lab = self.lab
        await lab.post("/v1/vms", {"name": "vm-1", "memory_bytes": 2**28})
        lab.begin()
        for _ in range(rounds // 2):
            await self.round("/v1/vms/vm-1/run")
            await lab.vm_is("vm-1", "up")
            await self.round("/v1/vms/vm-1/migrate")
            vm = await lab.vm_is("vm-1", "up")
            assert len(await lab.running(vm["id"])) == 1
            await lab.do("/v1/vms/vm-1/stop")
        counts = lab.counts()
        assert counts["VM.create"] == counts["VM.migrate"] == rounds // 2
        assert self.refused == rounds // 2 * 2 * (CONTENDERS - 1)


async def slowly(lab: Lab) -> None:
    """Hosts take their time, so that whoever has the VM has it when the others ask."""
    await lab.simulator.slow(None, milliseconds=100)


async def test_of_those_who_ask_at_once_one_wins_and_the_others_hear_who(tmp_path: Path) -> None:
    async with laboratory(tmp_path / "state", api_workers=3) as lab:
        await slowly(lab)
        await Race(lab).run(ROUNDS)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_of_those_who_ask_at_once_two_hundred_times_one_wins(tmp_path: Path, migrated_url: str) -> None:
    url = migrated_url if migrated_url.startswith("postgresql") else None
    async with laboratory(tmp_path / "state", api_workers=3, database_url=url) as lab:
        await slowly(lab)
        race = Race(lab)
        await race.run(200)
        print(f"races: 200 rounds, {race.refused} refusals, each with the holder")
