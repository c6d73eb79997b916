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
    values = {"interval_seconds": 0.1, "gap_percent": gap, "at_once": 2, "low_percent": 20.0}
    return Balancing(context_of(site, Balancing, "balancing", values))


async def places(site: VmSite) -> Counter[str | None]:
    page = await site.inventory.vms()
    assert all(vm.status == "up" and vm.destination_id is None for vm in page.vms)
    return Counter(vm.host_id for vm in page.vms)


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
            await until(lambda: _moved(site, 4))
        assert sorted((await places(site)).values()) == [2, 2, 2]
        moves = len(site.verbs("VM.migrate"))
        assert moves == 4
        assert len(await told(site, "vm_balanced")) == 4


async def test_a_host_with_little_to_do_is_emptied(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await run_all(site, 0, 1, 1, 2, 2, 2)
        await balanced(site, "power_saving")
        async with leading(balancing(site, gap=4.0)):

            async def gathered() -> bool:
                return await _moved(site, 3) and len(await places(site)) == 1

            await until(gathered)
        assert set(await places(site)) == {site.rows[2].id}


async def _moved(site: VmSite, count: int) -> bool:
    page = await site.inventory.vms()
    rest = all(vm.status == "up" and vm.destination_id is None for vm in page.vms)
    ended = [e for e in await told(site, "command_succeeded") if e.message.startswith("migrate_vm")]
    return rest and len(ended) >= count
