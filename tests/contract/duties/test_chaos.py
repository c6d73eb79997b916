"""Hosts crash and engines die, round after round: every HA VM ends up running, and never in two places.

The leaders of rounds before go on, as frozen ones do that do not know yet that they lead no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from engine.errors import AuthorityLost, Fenced
from engine.testing.singletons import leadership
from plugins.simulator import witness
from plugins.singletons.ha_restart import HaRestart
from plugins.singletons.host_treatment import HostTreatment
from tests.contract.duties.test_ha_restart import ha_restart
from tests.contract.duties.test_host_treatment import treatment
from tests.contract.vms.site import Engine, VmSite, until

VMS = 5
ROUNDS = [pytest.param(2, id="sample"), pytest.param(25, id="soak", marks=pytest.mark.soak)]


class Chaos:
    """A site whose engines are replaced; `chance` decides when they die."""

    def __init__(self, site: VmSite, stack: contextlib.AsyncExitStack, chance: random.Random) -> None:
        self._site = site
        self._stack = stack
        self._chance = chance
        self._engine: Engine
        self._token = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def next_engine(self) -> None:
        """The heir of the engine before, with leaders of its own."""
        self._token += 1
        self._engine = await self._stack.enter_async_context(self._site.engine(f"e{self._token}"))
        for duty in (treatment(self._site, again_seconds=0), ha_restart(self._site)):
            task = asyncio.create_task(self._lead(duty, self._token), name=f"leader {self._token}")
            self._tasks.append(task)
            self._stack.push_async_callback(_stop, task)

    async def _lead(self, duty: HostTreatment | HaRestart, token: int) -> None:
        with contextlib.suppress(Fenced, AuthorityLost):
            await duty.run(leadership(token=token))

    async def crash_a_host_and_the_engine(self) -> int:
        """The host with the most VMs, in truth; and some time after, the engine."""
        number = max(range(3), key=lambda each: (len(self._site.agents[each].vms), each))
        self._site.agents[number].crash()
        await asyncio.sleep(self._chance.uniform(0.0, 2.0))
        self._engine.die()
        await self.next_engine()
        return number


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", ROUNDS)
async def test_every_vm_runs_once_though_hosts_crash_and_engines_die(site: VmSite, rounds: int) -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    crashes: list[int] = []
    async with contextlib.AsyncExitStack() as stack:
        chaos = Chaos(site, stack, random.Random(seed))
        await chaos.next_engine()
        await site.up()
        for number in range(3):
            await site.give_power(number)
        vms = [await site.vm(f"vm-{number}", highly_available=True) for number in range(VMS)]
        for vm in vms:
            await site.do("run_vm", vm_id=vm.id)
        for _ in range(rounds):
            crashes.append(site.agents[await chaos.crash_a_host_and_the_engine()].port)

            async def well() -> bool:
                found = (await site.inventory.vms()).vms
                hosts = (await site.hosts.page()).hosts
                free = await site.locks.holders() == []
                return (
                    free
                    and all(each.status == "up" for each in hosts)
                    and all(
                        each.status == "up" and len(site.running(each)) == 1 and each.destination_id is None
                        for each in found
                    )
                )

            await until(well, seconds=90.0)
    log = site.log()
    assert witness.in_two_places(log) == []
    assert [change.host for change in witness.switched_off(log)] == crashes
