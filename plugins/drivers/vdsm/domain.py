"""A VM's definition as the agent wants it: a libvirt domain. The agent reads even the id from it."""

from __future__ import annotations

from xml.etree import ElementTree

from engine.plugin import VmDefinition

_KIBIBYTE = 1024


def domain_xml(vm: VmDefinition) -> str:
    """The smallest domain that says who the VM is and what it may use."""
    domain = ElementTree.Element("domain", type="kvm")
    for name, text in (("name", vm.name), ("uuid", vm.vm_id)):
        ElementTree.SubElement(domain, name).text = text
    ElementTree.SubElement(domain, "memory", unit="KiB").text = str(vm.memory_bytes // _KIBIBYTE)
    ElementTree.SubElement(domain, "vcpu", current=str(vm.cpus)).text = str(vm.cpus)
    system = ElementTree.SubElement(domain, "os")
    ElementTree.SubElement(system, "type", arch="x86_64", machine="q35").text = "hvm"
    return ElementTree.tostring(domain, encoding="unicode")
