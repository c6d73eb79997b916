"""Balancing on simulated hosts: VMs spread over the hosts, or gather on few of them, and then rest."""

from __future__ import annotations

from collections import Counter

from engine.db.tables import host_cluster
from plugins.singletons.balancing import Balancing
from tests.contract.duties.running import context_of, leading, told
from tests.contract.vms.site import VmSite, until


async def balanced(site: VmSite, policy: str) -> None:
    async with site.database.writing() as connection:
        await connection.execute(host_cluster.update().values(balancing=policy))


def balancing(site: VmSite, gap: float) -> Balancing:
    values = {"interval_seconds": 0.1, "gap_percent": gap, "at_once": 2, "rest_seconds": 0.2}
    return Balancing(context_of(site, Balancing, "balancing", values))


async def rests_at(site: VmSite, *counts: int) -> bool:
    """Whether nothing is on its way, and so many VMs are on each host that has any."""
    vms = (await site.inventory.vms()).vms
    if not all(vm.status == "up" and vm.destination_id is None for vm in vms):
        return False
    return sorted(Counter(vm.host_id for vm in vms).values()) == sorted(counts)


async def run_all(site: VmSite, *hosts: int) -> None:
    capabilities = (await site.hosts.get("host-0")).capabilities
    assert capabilities is not None
    memory = capabilities["memory_bytes"] // 20  # 5 % of a host each
    for number, host in enumerate(hosts):
        vm = await site.inventory.add_vm(name=f"vm-{number}", memory_bytes=memory, cpus=1, shards=8)
        await site.do("run_vm", vm_id=vm.id, host_id=site.rows[host].id)
        await site.becomes(vm, "up")


async def test_vms_are_spread_over_the_hosts_and_then_stay(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await run_all(site, 0, 0, 0, 0, 0, 0)
        await balanced(site, "even")
        async with leading(balancing(site, gap=4.0)):
            await until(lambda: rests_at(site, 2, 2, 2), seconds=90.0)
        asked = {event.data["command"] for event in await told(site, "vm_balanced")}
        assert len(asked) == len(await told(site, "vm_balanced")) >= 4  # each was told once


async def test_a_host_with_little_to_do_is_emptied(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await run_all(site, 0, 1, 1, 2, 2, 2)
        await balanced(site, "power_saving")
        async with leading(balancing(site, gap=4.0)):
            await until(lambda: rests_at(site, 6), seconds=90.0)
