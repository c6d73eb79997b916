"""What the agent is told of a VM: a domain that says what it needs, whatever the name holds."""

from __future__ import annotations

from xml.etree import ElementTree

from engine.plugin import VmDefinition, VmId
from plugins.drivers.vdsm.domain import domain_xml


def test_a_domain_bears_id_name_memory_and_processors() -> None:
    xml = domain_xml(VmDefinition(vm_id=VmId("id-1"), name="<a & b>", memory_bytes=2**30, cpus=3))
    domain = ElementTree.fromstring(xml)
    assert domain.findtext("uuid") == "id-1"
    assert domain.findtext("name") == "<a & b>"
    assert domain.findtext("memory") == str(2**20)
    memory = domain.find("memory")
    assert memory is not None
    assert memory.get("unit") == "KiB"
    assert domain.findtext("vcpu") == "3"
