"""Automatic recovery on simulated hosts."""

from __future__ import annotations

from plugins.singletons.auto_recovery import AutoRecovery
from tests.contract.duties.running import context_of, leading, told
from tests.contract.vms.site import VmSite, until


async def test_a_host_whose_agent_recovered_too_late_is_taken_into_use_again(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        agent = site.agents[1]
        agent.faults.error_code, agent.faults.error_left = 99, -1

        async def unusable() -> bool:
            return (await site.hosts.get("host-1")).status == "non_operational"

        await until(unusable)
        agent.faults.clear()
        quick = {"interval_seconds": 0.05, "after_seconds": 0.2}
        async with leading(AutoRecovery(context_of(site, AutoRecovery, "auto_recovery", quick))):
            await site.up()
        (event,) = await told(site, "host_recovery")
        assert event.message.startswith("host host-1 is tried again: it was non_operational: the agent has")
