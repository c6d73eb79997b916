"""Simulated hosts with engines on them, as `tests/contract/vms` has them, for the shipped singletons."""

from tests.contract.vms.conftest import site

__all__ = ["site"]
