"""Fifty VMs that are run and then moved, on and on, by people who know nothing of dying engines.

A few of them work at once, each with one VM at a time, over the API as any client would: a request that
got no answer is repeated under the same `Idempotency-Key`, a refusal is no command. Every command that
was accepted is kept, so that the demo can ask in the end what became of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import httpx

from engine.errors import EngineError
from engine.local_cluster.judgement import ENDED, ENDED_WELL, Submitted, VmRow

AT_ONCE = 6
MEMORY_BYTES = 256 * 1024 * 1024
END_SECONDS = 45.0
"""How long a command may take in the end: more than a quarantine and the timeouts of its steps."""
_RETRY_SECONDS = 0.1
_PAUSE_SECONDS = 0.1
_WAIT = "5s"
_FAILED = ENDED - {ENDED_WELL}


class Workload:
    """The VMs and all commands about them. `start` adds the VMs; `working` runs and moves them."""

    def __init__(self, client: httpx.AsyncClient, names: list[str], *, patience: float = 1.0) -> None:
        self.names = names
        self._end_seconds = END_SECONDS * patience
        self.refused: Counter[str] = Counter()
        self._client = client
        self._accepted: dict[str, tuple[str, str]] = {}
        self._under_way: set[str] = set()
        self._to_run: list[str] = []
        self._idle: asyncio.Queue[str] = asyncio.Queue()
        self._began = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def under_way(self) -> int:
        """Commands that have not ended, as far as is known here."""
        return len(self._under_way)

    async def busy(self, commands: int, *, seconds: float) -> None:
        """Wait until so many commands are under way. Raises `EngineError` when they do not come."""
        try:
            async with asyncio.timeout(seconds):
                while len(self._under_way) < commands:
                    self._began.clear()
                    await self._began.wait()
        except TimeoutError:
            raise EngineError(
                f"only {self.under_way} commands were under way after {seconds:.0f} s; refused so far:"
                f" {dict(self.refused.most_common(3))}"
            ) from None

    async def start(self) -> None:
        """Add the rows of the VMs, all of them highly available."""
        for name in self.names:
            body = {"name": name, "memory_bytes": MEMORY_BYTES, "highly_available": True}
            (await self._client.post("/v1/vms", json=body)).raise_for_status()
        self._to_run = list(self.names)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """People work meanwhile; on leaving they end what they have begun, in `END_SECONDS` at most."""
        async with asyncio.TaskGroup() as group:
            people = [group.create_task(self._work(), name=f"person-{n}") for n in range(AT_ONCE)]
            try:
                yield
            except BaseException:
                for person in people:
                    person.cancel()
                raise
            self._stopping.set()
            _done, late = await asyncio.wait(people, timeout=self._end_seconds)
            for person in late:
                person.cancel()

    async def _work(self) -> None:
        while not self._stopping.is_set() or self._to_run:
            first = bool(self._to_run)
            name = self._to_run.pop(0) if first else await self._next()
            if name is None:
                return
            succeeded = await self._do(name, "run" if first else "migrate")
            if first and not succeeded:
                self._to_run.append(name)
            else:
                self._idle.put_nowait(name)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _next(self) -> str | None:
        """A VM that nobody is busy with; None once there is nothing more to do."""
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        taking = asyncio.create_task(self._idle.get(), name="next-vm")
        try:
            await asyncio.wait((stopping, taking), return_when=asyncio.FIRST_COMPLETED)
            return taking.result() if taking.done() else None
        finally:
            stopping.cancel()
            taking.cancel()

    async def _do(self, name: str, action: str) -> bool:
        """Ask for one command and wait until it has ended; whether it succeeded."""
        command_id = await self._submit(name, action)
        if command_id is None:
            return False
        self._accepted[command_id] = (f"{action}_vm", name)
        self._under_way.add(command_id)
        self._began.set()
        try:
            while (found := await self._ask(command_id, wait=_WAIT)).may_end:
                pass
        finally:
            self._under_way.discard(command_id)
        return found.state == "succeeded"

    async def _submit(self, name: str, action: str) -> str | None:
        """The command's id; None where it was refused."""
        key = {"Idempotency-Key": str(uuid.uuid4())}
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await self._client.post(f"/v1/vms/{name}/{action}", json={}, headers=key)
                if answer.status_code == 409:
                    self.refused[answer.json().get("detail", answer.text)] += 1
                    return None
                if answer.status_code < 500:
                    return str(answer.raise_for_status().json()["id"])
            await asyncio.sleep(_RETRY_SECONDS)

    async def _ask(self, command_id: str, *, wait: str = "0s") -> Submitted:
        kind, name = self._accepted[command_id]
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await self._client.get(f"/v1/commands/{command_id}", params={"wait": wait})
                if answer.status_code == 404:
                    return Submitted(command_id, kind, name, "")
                if answer.status_code < 500:
                    said = answer.raise_for_status().json()
                    return Submitted(command_id, kind, name, said["state"], said["error"] or "")
            await asyncio.sleep(_RETRY_SECONDS)

    # --- what became of it ----------------------------------------------------------------------

    async def commands(self) -> list[Submitted]:
        """Every command as it is now: those accepted here, and those that engines asked for."""
        names = {vm["id"]: vm["name"] for vm in await listed(self._client, "vms")}
        known = {
            said["id"]: Submitted(
                said["id"],
                said["type"],
                names.get(said["entity"]["id"], said["entity"]["id"]),
                said["state"],
                said["error"] or "",
                datetime.fromisoformat(said["ended_at"]) if said["ended_at"] else None,
                await self._hosts_of(said["id"]) if said["state"] in _FAILED else frozenset(),
            )
            for said in await listed(self._client, "commands")
        }
        missing = [await self._ask(command_id) for command_id in self._accepted if command_id not in known]
        return [*known.values(), *missing]

    async def _hosts_of(self, command_id: str) -> frozenset[str]:
        """The hosts that steps of a command acted on or chose."""
        steps = (await self._client.get(f"/v1/commands/{command_id}")).raise_for_status().json()["steps"]
        places = ("host_id", "source", "destination")
        named = {str(step["result"].get(place)) for step in steps for place in places}
        return frozenset(named | {str(step["host_id"]) for step in steps})

    async def rows(self) -> list[VmRow]:
        """The VMs as the database has them."""
        ports = {host["id"]: host["port"] for host in await listed(self._client, "hosts")}
        return [
            VmRow(vm["id"], vm["name"], vm["status"], ports.get(vm["host_id"]))
            for vm in await listed(self._client, "vms")
        ]


async def listed(client: httpx.AsyncClient, what: str) -> list[dict[str, Any]]:
    """All items of `/v1/<what>`. Raises `EngineError`, httpx's errors."""
    found: list[dict[str, Any]] = []
    url: str | None = f"/v1/{what}?limit=1000"
    while url:
        answer = await client.get(url)
        if answer.status_code != 200:
            raise EngineError(f"{url} answered {answer.status_code}: {answer.text[:200]}")
        page = answer.json()
        found += page[what]
        url = page.get("next")
    return found
