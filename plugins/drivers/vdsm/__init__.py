"""The VDSM driver: JSON-RPC 2.0 over STOMP 1.2 on TCP, plain or with mutual TLS."""

from plugins.drivers.vdsm.driver import VdsmDriver

__all__ = ["VdsmDriver"]
