"""What an engine asks for by itself, about what its hosts reported: the same way as a user asks.

A wish is no promise: where the entity is locked, somebody sees to it already, and where the database
or ZooKeeper is away, the host's next report repeats the wish.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from engine.commands.submission import Submission
from engine.errors import Conflict, EngineError, NotFound
from engine.plugin import VmId

LOG = logging.getLogger(__name__)

USER = "engine"
_CLEAR = "process_down_vm"


class Reactions:
    """`ended` may be called at any time; `run` submits until cancelled."""

    def __init__(self) -> None:
        self._ended: dict[VmId, None] = {}
        self._wanted = asyncio.Event()

    def ended(self, vms: Collection[VmId]) -> None:
        """These VMs are down, and something may be left of them on their host."""
        self._ended.update(dict.fromkeys(vms))
        self._wanted.set()

    async def run(self, submission: Submission) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._ended:
                vm_id = next(iter(self._ended))
                del self._ended[vm_id]
                await self._clear(submission, vm_id)

    async def _clear(self, submission: Submission, vm_id: VmId) -> None:
        try:
            await submission.submit(_CLEAR, {"vm_id": vm_id}, user=USER)
        except (Conflict, NotFound) as refused:
            LOG.debug("vm=%s: not cleared away now: %s", vm_id, refused)
        except EngineError as error:
            LOG.info("vm=%s: cannot be cleared away now: %s", vm_id, error)
