"""What a host says about itself and its VMs, in the agent's shapes and its odd mixture of types.

Numbers that are strings here ("cpuCores", "memSize", "cpuLoad") are strings on the wire. Pure: the
same host at the same moment reports the same.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Collection
from typing import Any

from plugins.simulator.machines import Exit, Vm, VmStatus

CPU_CORES = 16
MEMORY_MB = 65_536
AGENT_VERSION = "4.5.6"
_IDLE_MEMORY_MB = 2_048
_CLUSTER_LEVELS = ["4.2", "4.3", "4.4", "4.5", "4.6", "4.7", "4.8"]
_MIGRATING = (VmStatus.MIGRATION_SOURCE, VmStatus.MIGRATION_DESTINATION)


def host_uuid(port: int) -> str:
    """The hardware identity of the host on `port`; the same after each start."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"engine-simulator:{port}"))


def capabilities(port: int) -> dict[str, Any]:
    return {
        "uuid": host_uuid(port),
        "cpuCores": str(CPU_CORES),
        "cpuThreads": str(CPU_CORES * 2),
        "cpuSockets": "1",
        "cpuModel": "Simulated CPU",
        "cpuSpeed": "2400.000",
        "cpuFlags": "sse4_1,sse4_2,ssse3,vmx,model_Nehalem,model_Westmere",
        "onlineCpus": ",".join(map(str, range(CPU_CORES))),
        "memSize": str(MEMORY_MB),
        "reservedMem": "321",
        "guestOverhead": "65",
        "kvmEnabled": "true",
        "vmTypes": ["kvm"],
        "emulatedMachines": ["pc", "q35"],
        "clusterLevels": _CLUSTER_LEVELS,
        "supportedENGINEs": _CLUSTER_LEVELS,
        "supportedProtocols": ["2.2", "2.3"],
        "software_version": AGENT_VERSION,
        "software_revision": "1",
        "version_name": "Snow Man",
        "operatingSystem": {
            "name": "Simulated",
            "version": "1",
            "release": "1",
            "pretty_name": "Simulated 1",
        },
        "packages2": {"vdsm": {"version": AGENT_VERSION, "release": "1"}},
        "networks": {
            "ovirtmgmt": {"iface": "ovirtmgmt", "bridged": True, "addr": "127.0.0.1", "ports": ["eth0"]}
        },
        "nics": {"eth0": {"hwaddr": _mac(port), "speed": 10_000, "mtu": 1500}},
        "bondings": {},
        "bridges": {"ovirtmgmt": {"ports": ["eth0"], "stp": "off"}},
        "vlans": {},
        "lastClientIface": "ovirtmgmt",
        "ISCSIInitiatorName": f"iqn.2026-01.simulator:{port}",
        "HBAInventory": {"iSCSI": [], "FC": []},
        "selinux": {"mode": "1"},
        "kdumpStatus": 0,
        "hostdevPassthrough": "false",
        "numaNodes": {"0": {"cpus": list(range(CPU_CORES)), "totalMemory": str(MEMORY_MB)}},
        "additionalFeatures": [],
    }


def host_statistics(vms: Collection[Vm], *, uptime_seconds: float) -> dict[str, Any]:
    running = [vm for vm in vms if vm.running]
    used = _IDLE_MEMORY_MB + sum(vm.memory_mb for vm in running)
    load = min(100.0, 1.0 + 3.0 * len(running))
    return {
        "vmCount": len(vms),
        "vmActive": sum(vm.status is VmStatus.UP for vm in running),
        "vmMigrating": sum(vm.status in _MIGRATING for vm in running),
        "incomingVmMigrations": sum(vm.status is VmStatus.MIGRATION_DESTINATION for vm in running),
        "outgoingVmMigrations": sum(vm.status is VmStatus.MIGRATION_SOURCE for vm in running),
        "memFree": max(0, MEMORY_MB - used),
        "memAvailable": max(0, MEMORY_MB - used),
        "memCommitted": used,
        "memShared": 0,
        "memUsed": str(round(100 * used / MEMORY_MB)),
        "swapTotal": 4096,
        "swapFree": 4096,
        "cpuLoad": f"{load * CPU_CORES / 100:.2f}",
        "cpuUser": f"{load:.2f}",
        "cpuSys": "0.50",
        "cpuIdle": f"{max(0.0, 99.5 - load):.2f}",
        "cpuUserVdsmd": "0.20",
        "cpuSysVdsmd": "0.10",
        "elapsedTime": str(int(uptime_seconds)),
        "ksmState": False,
        "ksmPages": 100,
        "ksmCpu": 0,
        "anonHugePages": "0",
        "thpState": "always",
        "netConfigDirty": "False",
        "network": {"eth0": {"name": "eth0", "state": "up", "speed": "10000", "rx": "0", "tx": "0"}},
        "storageDomains": {},
        "haStats": {"configured": False, "active": False, "score": 0},
    }


def vm_statistics(vm: Vm, *, now: float) -> dict[str, Any]:
    status: dict[str, Any] = {
        "vmId": vm.vm_id,
        "vmName": vm.name,
        "status": vm.status.value,
        "statusTime": str(int(now * 1000)),
        "vmType": "kvm",
    }
    if vm.status is VmStatus.DOWN:
        return {**status, **exit_fields(vm.exit)}
    return {
        **status,
        "memUsage": "20",
        "cpuUser": "3.00",
        "cpuSys": "0.50",
        "elapsedTime": str(int(now - vm.since)),
        "monitorResponse": "0",
        "guestFQDN": "",
        "guestIPs": "",
        "clientIp": "",
        "network": {},
        "disks": {},
        "displayInfo": [],
        "hash": str(zlib.crc32(vm.vm_id.encode())),
    }


def exit_fields(ended: Exit | None) -> dict[str, Any]:
    """What a Down VM adds to its status."""
    if ended is None:
        return {"exitCode": 1, "exitReason": 1, "exitMessage": "Unknown"}
    return {"exitCode": ended.code, "exitReason": int(ended.reason), "exitMessage": ended.message}


def vm_definition(vm: Vm) -> dict[str, Any]:
    return {
        "vmId": vm.vm_id,
        "vmName": vm.name,
        "status": vm.status.value,
        "memSize": vm.memory_mb,
        "vmType": "kvm",
        "statusTime": str(int(vm.since * 1000)),
    }


def hardware(port: int) -> dict[str, Any]:
    return {
        "systemManufacturer": "Simulated",
        "systemProductName": "Simulated host",
        "systemFamily": "",
        "systemVersion": "1",
        "systemSerialNumber": f"SIM-{port}",
        "systemUUID": host_uuid(port),
    }


def _mac(port: int) -> str:
    return f"52:54:00:00:{port >> 8:02x}:{port & 0xFF:02x}"
