"""One session with one host: verbs out, replies matched by id, events in the order they came.

The agent routes replies by a map from request id to queue that all its clients share, so ids are
uuids and the queue is this connection's own; a reply to an id that nobody waits for is counted and
dropped. A call ends within its deadline with a result or a named error. There is no task: the loop
calls in, futures carry the answers out.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from engine.plugin import (
    EngineError,
    FenceAgent,
    HostCapabilities,
    HostConnection,
    HostEvent,
    HostStatistics,
    HostTarget,
    HostUnreachable,
    InvalidInput,
    NoSuchVm,
    OutcomeUnknown,
    PowerAction,
    PowerState,
    VmDefinition,
    VmId,
    VmReport,
)
from plugins.drivers.vdsm.domain import domain_xml
from plugins.drivers.vdsm.reports import (
    MalformedAnswer,
    capabilities_from_wire,
    event_from_wire,
    migration_from_wire,
    power_from_wire,
    refusal_from_wire,
    statistics_from_wire,
    vm_from_wire,
    vms_from_wire,
)
from plugins.drivers.vdsm.stomp import Frame, ProtocolError, encode_send, header_lines, heart_beat
from plugins.drivers.vdsm.wire import Session, Wire

LOG = logging.getLogger(__name__)

_REQUESTS: Final = "jms.topic.vdsm_requests"
_EVENTS: Final = "jms.queue.events"


class VdsmConnection(HostConnection):
    """A live session. Built by `VdsmDriver.connect`, which awaits `ready`."""

    __slots__ = (
        "_call_seconds",
        "_calls",
        "_heartbeat_ms",
        "_lines",
        "_lost",
        "_on_event",
        "_queue",
        "_target",
        "foreign_replies",
        "malformed_events",
        "ready",
        "wire",
    )

    def __init__(
        self,
        target: HostTarget,
        *,
        wire: Callable[[Session], Wire],
        call_seconds: float,
        heartbeat_seconds: float,
        on_event: Callable[[HostEvent], None],
    ) -> None:
        self._target = target
        self._call_seconds = call_seconds
        self._heartbeat_ms = int(heartbeat_seconds * 1000)
        self._on_event = on_event
        self._queue = str(uuid.uuid4())
        headers = {
            "destination": _REQUESTS,
            "reply-to": self._queue,
            "content-type": "application/json",
            "engine-id": target.engine,
        }
        if target.epoch:  # a visitor acts under none
            headers["engine-epoch"] = str(target.epoch)
        self._lines = header_lines("SEND", headers)
        self._calls: dict[str, asyncio.Future[Any]] = {}
        self._lost = asyncio.Event()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.foreign_replies = 0
        """Replies to ids that nobody here waits for: another client's, or later than the deadline."""
        self.malformed_events = 0
        self.wire = wire(self)

    # --- HostConnection ---

    @property
    def lost(self) -> asyncio.Event:
        return self._lost

    async def capabilities(self) -> HostCapabilities:
        return capabilities_from_wire(await self.call("Host.getCapabilities", {}, operation_id=None))

    async def statistics(self) -> HostStatistics:
        return statistics_from_wire(await self.call("Host.getStats", {}, operation_id=None))

    async def vms(self) -> tuple[VmReport, ...]:
        return vms_from_wire(await self.call("Host.getAllVmStats", {}, operation_id=None))

    async def vm(self, vm_id: VmId) -> VmReport | None:
        try:
            return vm_from_wire(await self.call("VM.getStats", {"vmID": vm_id}, operation_id=None))
        except NoSuchVm:
            return None

    async def create_vm(self, vm: VmDefinition, *, operation_id: str) -> None:
        details = {"vmId": vm.vm_id, "xml": domain_xml(vm)}
        await self.call("VM.create", {"vmID": vm.vm_id, "vmParams": details}, operation_id=operation_id)

    async def destroy_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        await self._vm_call("VM.destroy", vm_id, operation_id)

    async def shutdown_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        await self._vm_call("VM.shutdown", vm_id, operation_id)

    async def reboot_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        await self._vm_call("VM.shutdown", vm_id, operation_id, reboot=True)

    async def pause_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        await self._vm_call("VM.pause", vm_id, operation_id)

    async def resume_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        await self._vm_call("VM.cont", vm_id, operation_id)

    async def migrate_vm(self, vm_id: VmId, *, address: str, port: int, operation_id: str) -> None:
        host = f"[{address}]" if ":" in address else address
        params = {
            "vmId": vm_id,
            "method": "online",
            "src": self._target.address,
            "dst": f"{host}:{port}",
            "abortOnError": True,
        }
        await self._vm_call("VM.migrate", vm_id, operation_id, params=params)

    async def cancel_migration(self, vm_id: VmId, *, operation_id: str) -> None:
        await self._vm_call("VM.migrateCancel", vm_id, operation_id)

    async def migration_percent(self, vm_id: VmId) -> int:
        status = await self.call("VM.getMigrationStatus", {"vmID": vm_id}, operation_id=None)
        return migration_from_wire(status)

    async def fence_node(self, agent: FenceAgent, action: PowerAction, *, operation_id: str) -> PowerState:
        params = {
            "addr": agent.address,
            "port": agent.port,
            "agent": agent.kind,
            "username": agent.username,
            "password": agent.password,
            "action": str(action),
            "secure": False,
            "options": agent.options,
        }
        return power_from_wire(await self.call("Host.fenceNode", params, operation_id=operation_id))

    async def _vm_call(self, verb: str, vm_id: VmId, operation_id: str, **params: Any) -> None:
        await self.call(verb, {"vmID": vm_id, **params}, operation_id=operation_id)

    async def close(self) -> None:
        self.wire.abort("closed by this engine")
        await self.wire.closed()

    # --- calls ---

    async def call(
        self,
        verb: str,
        params: Mapping[str, Any],
        *,
        operation_id: str | None,
        timeout_seconds: float | None = None,
    ) -> Any:
        """Have the host carry out `verb`; return its result as it came (JSON).

        `operation_id` travels with the request and enters the host's log; polls have none. Raises
        what `HostConnection` says, and `InvalidInput` if `params` are not JSON.
        """
        if self.wire.over is not None:
            raise HostUnreachable(self.wire.over)
        seconds = self._call_seconds if timeout_seconds is None else timeout_seconds
        request_id = str(uuid.uuid4())
        request = self._request(request_id, verb, params, operation_id)
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        self._calls[request_id] = reply
        try:
            self.wire.send_encoded(request)
            deadline = loop.call_later(seconds, self._give_up, reply, verb, seconds)
            try:
                return await reply
            finally:
                deadline.cancel()
        finally:
            self._calls.pop(request_id, None)

    def _request(
        self, request_id: str, verb: str, params: Mapping[str, Any], operation_id: str | None
    ) -> bytes:
        try:
            body = orjson.dumps({"jsonrpc": "2.0", "method": verb, "params": params, "id": request_id})
        except TypeError as error:
            raise InvalidInput(f"the parameters of {verb} are not JSON: {error}") from error
        lines = self._lines
        if operation_id is not None:
            lines += header_lines("SEND", {"ovirtCorrelationId": operation_id})
        return encode_send(lines, body)

    def _give_up(self, reply: asyncio.Future[Any], verb: str, seconds: float) -> None:
        _fail(reply, OutcomeUnknown(f"{self.wire.name}: no answer to {verb} within {seconds:g} s"))

    # --- wire.Session ---

    def wire_opened(self) -> None:
        headers = {
            "accept-version": "1.2",
            "host": self._target.address.replace(":", "-"),  # CONNECT cannot escape an IPv6 address
            "heart-beat": f"{self._heartbeat_ms},{self._heartbeat_ms}",
        }
        self._send_while_connecting(Frame("CONNECT", headers))

    def wire_received(self, frame: Frame) -> None:
        if frame.command == "MESSAGE":
            self._on_message(frame.body)
        elif frame.command == "CONNECTED" and not self.ready.done():
            self._on_connected(frame.headers)
        elif frame.command == "ERROR":
            said = frame.body.decode("utf-8", "replace") or frame.headers.get("message", "")
            self.wire.abort(f"answered with an error: {said[:200]}")
        else:
            self.wire.abort(f"sent an unexpected {frame.command}")

    def wire_lost(self, reason: str) -> None:
        self._lost.set()
        _fail(self.ready, HostUnreachable(reason))
        for reply in self._calls.values():
            _fail(reply, OutcomeUnknown(reason))

    # --- frames from the host ---

    def _on_connected(self, headers: Mapping[str, str]) -> None:
        if headers.get("version") != "1.2":
            self.wire.abort(f"speaks STOMP {headers.get('version', '1.0')}, not 1.2")
            return
        try:
            sends_ms, wants_ms = heart_beat(headers.get("heart-beat", "0,0"))
        except ProtocolError as error:
            self.wire.abort(f"broke the protocol: {error}")
            return
        ours = self._heartbeat_ms
        self.wire.keep_alive(
            send_seconds=max(ours, wants_ms) / 1000 if ours and wants_ms else 0.0,
            expect_seconds=max(ours, sends_ms) / 1000 if ours and sends_ms else 0.0,
        )
        for destination in (self._queue, _EVENTS):
            subscription = {"destination": destination, "id": str(uuid.uuid4()), "ack": "auto"}
            self._send_while_connecting(Frame("SUBSCRIBE", subscription))
        if not self.ready.done():
            self.ready.set_result(None)

    def _send_while_connecting(self, frame: Frame) -> None:
        """There is no caller to raise to yet but the one who awaits `ready`."""
        try:
            self.wire.send(frame)
        except EngineError as error:
            _fail(self.ready, error)
            self.wire.abort(str(error))

    def _on_message(self, body: bytes) -> None:
        try:
            message = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            self.wire.abort(f"sent a message that is not JSON: {error}")
            return
        if not isinstance(message, dict):
            self.wire.abort("sent a message that is neither a reply nor an event")
        elif "method" in message:
            self._on_notification(message)
        else:
            self._on_reply(message)

    def _on_reply(self, message: dict[str, Any]) -> None:
        request_id = message.get("id")
        reply = self._calls.get(request_id) if isinstance(request_id, str) else None
        if reply is None or reply.done():
            self.foreign_replies += 1
        elif message.get("error") is not None:
            reply.set_exception(refusal_from_wire(message["error"]))
        elif "result" in message:
            reply.set_result(message["result"])
        else:
            reply.set_exception(MalformedAnswer("the reply has neither result nor error"))

    def _on_notification(self, message: dict[str, Any]) -> None:
        try:
            event = event_from_wire(message)
        except MalformedAnswer as error:
            self.malformed_events += 1
            if self.malformed_events == 1:  # a host that does this does it all the time
                LOG.warning("host=%s sent a malformed event: %s", self._target.host_id, error)
            return
        self._on_event(event)


def _fail(future: asyncio.Future[Any], error: EngineError) -> None:
    """Fail `future` unless it is done; nobody need be waiting for it any more."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # else the loop complains where the waiter was told another way
