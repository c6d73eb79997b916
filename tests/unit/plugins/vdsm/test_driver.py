"""The driver against a scripted agent: every byte it sends, every way a call can end, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from engine.plugin import (
    AuthorityLost,
    HostEvent,
    HostRefused,
    HostUnreachable,
    InvalidInput,
    OutcomeUnknown,
)
from plugins.drivers.vdsm import VdsmDriver
from plugins.drivers.vdsm.connection import VdsmConnection
from plugins.drivers.vdsm.stomp import Frame, encode
from tests.unit.plugins.vdsm.agent import (
    Agent,
    TestAuthority,
    answer_all,
    connected,
    event,
    message,
    refusal,
    result,
    running_agent,
)


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with running_agent() as running:
        yield running


async def connect(
    agent: Agent,
    *,
    authority: TestAuthority | None = None,
    events: list[HostEvent] | None = None,
    **values: Any,
) -> VdsmConnection:
    return await VdsmDriver(values).connect(
        agent.target(),
        authority=authority or TestAuthority(),
        on_event=(events if events is not None else []).append,
    )


def nothing(_: object) -> bytes:
    return b""


async def test_a_session_is_opened_byte_by_byte_as_the_agent_wants_it(agent: Agent) -> None:
    connection = await connect(agent)
    await agent.until(lambda: len(agent.frames) == 3)
    queue, own, events = agent.frames[1].headers["destination"], *(f.headers["id"] for f in agent.frames[1:])
    assert uuid.UUID(queue)
    assert own != events
    assert agent.received.decode() == (
        "CONNECT\naccept-version:1.2\nhost:127.0.0.1\nheart-beat:25000,25000\n\n\0"
        f"SUBSCRIBE\ndestination:{queue}\nid:{own}\nack:auto\n\n\0"
        f"SUBSCRIBE\ndestination:jms.queue.events\nid:{events}\nack:auto\n\n\0"
    )
    await connection.close()


async def test_a_call_is_sent_byte_by_byte_with_its_operation_and_epoch(agent: Agent) -> None:
    connection = await connect(agent)
    await agent.until(lambda: len(agent.frames) == 3)
    queue, before = agent.frames[1].headers["destination"], len(agent.received)
    assert await connection.call("VM.destroy", {"vmID": "x"}, operation_id="op:1\n") is True
    request_id = agent.requests[0]["id"]
    assert str(uuid.UUID(request_id)) == request_id
    assert agent.received[before:].decode() == (
        f"SEND\ndestination:jms.topic.vdsm_requests\nreply-to:{queue}\ncontent-type:application/json\n"
        "engine-id:engine-1\nengine-epoch:7\novirtCorrelationId:op\\c1\\n\ncontent-length:105\n\n"
        f'{{"jsonrpc":"2.0","method":"VM.destroy","params":{{"vmID":"x"}},"id":"{request_id}"}}\0'
    )
    await connection.close()


async def test_polls_bear_no_operation_id(agent: Agent) -> None:
    connection = await connect(agent)
    await connection.statistics()
    assert "ovirtCorrelationId" not in agent.frames[-1].headers
    await connection.close()


async def test_an_ipv6_address_is_announced_without_the_colons_that_the_agent_does_not_bear() -> None:
    async with running_agent() as agent:
        server = await asyncio.start_server(agent.serve, "::1", 0)
        agent.port = server.sockets[0].getsockname()[1]
        connection = await VdsmDriver({}).connect(
            agent.target(address="::1"), authority=TestAuthority(), on_event=print
        )
        assert agent.frames[0].headers["host"] == "--1"
        assert connection.wire.name == f"[::1]:{agent.port}"
        await connection.close()
        server.close()
        await server.wait_closed()


async def test_a_host_is_found_by_name(agent: Agent) -> None:
    connection = await VdsmDriver({}).connect(
        agent.target(address="localhost"), authority=TestAuthority(), on_event=print
    )
    assert (await connection.capabilities()).cpu_cores == 4
    await connection.close()


async def test_two_connections_never_share_a_queue_or_a_request_id(agent: Agent) -> None:
    connections = [await connect(agent), await connect(agent)]
    await asyncio.gather(*(c.statistics() for c in connections * 5))
    assert len({f.headers["reply-to"] for f in agent.frames if f.command == "SEND"}) == 2
    assert len({request["id"] for request in agent.requests}) == 10
    for connection in connections:
        await connection.close()


async def test_the_socket_is_set_to_send_at_once_and_to_give_up_before_authority_ends(agent: Agent) -> None:
    authority = TestAuthority(seconds=8.0)
    connection = await connect(agent, authority=authority)
    sock = _socket_of(connection)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == b"\1\0\0\0\0\0\0\0"
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 6000
    authority.seconds = 4.0
    await connection.statistics()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 3000
    authority.seconds = 5.9
    await connection.statistics()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 3000
    await connection.close()


def _socket_of(connection: VdsmConnection) -> socket.socket:
    transport = connection.wire._transport
    assert transport is not None
    sock: socket.socket = transport.get_extra_info("socket")
    return sock


# --- authority ---


async def test_without_authority_nothing_is_connected(agent: Agent) -> None:
    with pytest.raises(AuthorityLost):
        await connect(agent, authority=TestAuthority(seconds=0))
    assert agent.peers == []


async def test_without_authority_a_call_sends_nothing_and_the_connection_outlives_it(agent: Agent) -> None:
    authority = TestAuthority()
    connection = await connect(agent, authority=authority)
    authority.seconds = 0
    with pytest.raises(AuthorityLost):
        await connection.call("VM.destroy", {"vmID": "x"}, operation_id="op")
    authority.seconds = 60
    await connection.statistics()
    assert [request["method"] for request in agent.requests] == ["Host.getStats"]
    await connection.close()


async def test_authority_that_ends_during_the_greeting_ends_the_connection() -> None:
    authority = TestAuthority()

    def greet(frame: Frame) -> bytes:
        authority.seconds = 0
        return connected(frame)

    async with running_agent(greet=greet) as agent:
        with pytest.raises(AuthorityLost):
            await connect(agent, authority=authority)
        await agent.until(lambda: agent.ends)
        assert [frame.command for frame in agent.frames] == ["CONNECT"]


async def test_connecting_takes_no_longer_than_authority_lasts() -> None:
    async with running_agent(greet=nothing) as agent:
        with pytest.raises(HostUnreachable, match=r"no session within 0\.2 s"):
            await connect(agent, authority=TestAuthority(seconds=0.2), connect_timeout=60.0)


# --- a host that does not read ---


async def test_a_request_that_cannot_leave_at_once_never_leaves_and_the_connection_is_reset() -> None:
    async with deaf_agent() as (port, peers):
        agent = Agent(port=port)
        connection = await connect(agent)
        big = {"xml": "x" * (32 * 1024 * 1024)}
        with pytest.raises(HostUnreachable, match="does not read what it is sent"):
            await connection.call("VM.create", big, operation_id="op")
        assert connection.lost.is_set()
        assert connection.wire._transport is None or connection.wire._transport.is_closing()
        received = await peers[0].drain()
        assert b"VM.create" in received
        assert not received.endswith(b"\0")


async def test_calls_before_the_one_that_got_stuck_have_an_unknown_outcome() -> None:
    async with deaf_agent() as (port, _):
        connection = await connect(Agent(port=port))
        first = asyncio.create_task(connection.call("VM.create", {}, operation_id="op"))
        await asyncio.sleep(0)
        with pytest.raises(HostUnreachable):
            await connection.call("VM.create", {"xml": "x" * (32 * 1024 * 1024)}, operation_id="op")
        with pytest.raises(OutcomeUnknown, match="does not read"):
            await first


class DeafPeer:
    """Greets and then leaves everything in the socket's buffer until `drain`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    async def drain(self) -> bytes:
        received, loop = b"", asyncio.get_running_loop()
        with contextlib.suppress(ConnectionResetError):
            while piece := await loop.sock_recv(self.sock, 1 << 20):
                received += piece
        return received


@contextlib.asynccontextmanager
async def deaf_agent() -> AsyncIterator[tuple[int, list[DeafPeer]]]:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        peers: list[DeafPeer] = []

        async def greet() -> None:
            sock, _ = await loop.sock_accept(listener)
            await loop.sock_recv(sock, 65536)
            await loop.sock_sendall(sock, b"CONNECTED\nversion:1.2\n\n\0")
            peers.append(DeafPeer(sock))

        greeting = asyncio.create_task(greet())
        yield listener.getsockname()[1], peers
        await greeting
        for peer in peers:
            peer.sock.close()


# --- how a connection fails ---


async def test_a_closed_port_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(HostUnreachable, match=f"127.0.0.1:{port}: Connection refused"):
        await connect(Agent(port=port))


async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    target = Agent(port=1).target(address="no-such-host.invalid")
    with pytest.raises(HostUnreachable, match=r"no-such-host\.invalid:1: "):
        await VdsmDriver({}).connect(target, authority=TestAuthority(), on_event=print)


GREETINGS: Mapping[str, tuple[bytes, str]] = {
    "an ERROR frame": (b"ERROR\n\nVersion unsupported\0", "answered with an error: Version unsupported"),
    "another version": (b"CONNECTED\nversion:1.1\n\n\0", r"speaks STOMP 1\.1, not 1\.2"),
    "no version": (b"CONNECTED\n\n\0", r"speaks STOMP 1\.0, not 1\.2"),
    "a bad heart-beat": (b"CONNECTED\nversion:1.2\nheart-beat:x\n\n\0", "heart-beat 'x' is not two numbers"),
    "garbage": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "broke the protocol: unknown command b'HTTP"),
    "a TLS alert": (b"\x15\x03\x03\x00\x02\x02\x28", "speaks TLS, and the option tls is off"),
    "a wrong command": (b"RECEIPT\nreceipt-id:1\n\n\0", "sent an unexpected RECEIPT"),
    "nothing": (b"", r"no session within 0\.3 s"),
    "half a frame": (b"CONNECTED\nversion:1.", r"no session within 0\.3 s"),
}


@pytest.mark.parametrize(("greeting", "reason"), GREETINGS.values(), ids=GREETINGS)
async def test_a_host_that_greets_wrongly_is_unreachable_and_says_why(greeting: bytes, reason: str) -> None:
    async with running_agent(greet=lambda _: greeting) as agent:
        with pytest.raises(HostUnreachable, match=reason):
            await connect(agent, connect_timeout=0.3)
        await agent.until(lambda: agent.ends)


async def test_a_cancelled_connect_leaves_no_socket_behind() -> None:
    async with running_agent(greet=nothing) as agent:
        connecting = asyncio.create_task(connect(agent))
        await agent.until(lambda: agent.frames)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await agent.until(lambda: agent.ends)


# --- how a call ends ---


async def test_an_error_of_the_agent_is_refused_with_its_code_and_the_connection_goes_on() -> None:
    codes = iter([99, 1100])

    def answer(request: Mapping[str, Any]) -> bytes:
        code = next(codes, None)
        return answer_all(request) if code is None else refusal(request, code, "not now")

    async with running_agent(answer=answer) as agent:
        connection = await connect(agent)
        for code in (99, 1100):
            with pytest.raises(HostRefused, match="not now") as refused:
                await connection.statistics()
            assert refused.value.code == code
        assert (await connection.statistics()).vm_count == 2
        await connection.close()


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "1", "message": "x"}},
        {"error": {"message": "x"}},
        {"error": "x"},
        {"error": {"code": True, "message": "x"}},
        {},
        {"result": {"memFree": "many"}},
        {"result": None},
    ],
    ids=str,
)
async def test_an_answer_of_the_wrong_shape_is_the_hosts_fault_by_name(body: dict[str, Any]) -> None:
    async with running_agent(answer=lambda request: message({"id": request["id"], **body})) as agent:
        connection = await connect(agent)
        with pytest.raises(HostRefused) as refused:
            await connection.statistics()
        assert refused.value.code == -32603
        assert not connection.lost.is_set()
        await connection.close()


async def test_a_call_that_is_not_answered_has_an_unknown_outcome_by_its_deadline() -> None:
    async with running_agent(answer=nothing) as agent:
        connection = await connect(agent, call_timeout=0.2)
        with pytest.raises(OutcomeUnknown, match=r"no answer to Host\.getStats within 0\.2 s"):
            await connection.statistics()
        assert not connection.lost.is_set()
        await connection.close()


async def test_a_late_answer_is_counted_and_dropped() -> None:
    async with running_agent(answer=nothing) as agent:
        connection = await connect(agent, call_timeout=0.1)
        with pytest.raises(OutcomeUnknown):
            await connection.statistics()
        agent.answer = answer_all
        await agent.say(result(agent.requests[0], {}))
        assert (await connection.statistics()).vm_active == 1
        assert connection.foreign_replies == 1
        await connection.close()


async def test_answers_to_foreign_ids_are_counted_and_change_nothing(agent: Agent) -> None:
    connection = await connect(agent)
    for foreign in ("0", None, 7, ["x"], {"a": 1}, str(uuid.uuid4())):
        await agent.say(message({"jsonrpc": "2.0", "id": foreign, "result": {"vmCount": 99}}))
    assert (await connection.statistics()).vm_count == 2
    assert connection.foreign_replies == 6
    await connection.close()


async def test_answers_find_their_calls_in_whatever_order_they_come() -> None:
    held: list[Mapping[str, Any]] = []

    def answer(request: Mapping[str, Any]) -> bytes:
        held.append(request)
        return b"".join(result(one, one["params"]["n"]) for one in reversed(held)) if len(held) == 5 else b""

    async with running_agent(answer=answer) as agent:
        connection = await connect(agent)
        calls = [connection.call("X", {"n": n}, operation_id=None) for n in range(5)]
        assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]
        await connection.close()


async def test_a_cancelled_call_leaves_the_connection_usable() -> None:
    async with running_agent(answer=nothing) as agent:
        connection = await connect(agent)
        call = asyncio.create_task(connection.statistics())
        await agent.until(lambda: agent.requests)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        agent.answer = answer_all
        await agent.say(result(agent.requests[0], {}))
        assert (await connection.statistics()).vm_count == 2
        assert connection.foreign_replies == 1
        await connection.close()


async def test_parameters_that_are_not_json_are_refused_before_anything_is_sent(agent: Agent) -> None:
    connection = await connect(agent)
    with pytest.raises(InvalidInput, match=r"the parameters of VM\.create are not JSON"):
        await connection.call("VM.create", {"x": object()}, operation_id="op")
    await connection.statistics()
    assert len(agent.requests) == 1
    await connection.close()


FATAL: Mapping[str, tuple[bytes, str]] = {
    "garbage": (b"\x00\x01\x02garbage", "broke the protocol"),
    "no json": (message(b"{"), "not JSON"),
    "a json list": (message(b"[1]"), "neither a reply nor an event"),
    "a json number": (message(b"1"), "neither a reply nor an event"),
    "an error frame": (
        encode(Frame("ERROR", {}, b"Subscription not available")),
        "Subscription not available",
    ),
    "an error frame without body": (b"ERROR\nmessage:why\n\n\0", "answered with an error: why"),
    "a second greeting": (b"CONNECTED\nversion:1.2\n\n\0", "unexpected CONNECTED"),
    "an announced monster": (b"MESSAGE\ncontent-length:16777217\n\n", "larger than 16777216 bytes"),
}


@pytest.mark.parametrize(("data", "reason"), FATAL.values(), ids=FATAL)
async def test_a_host_that_talks_nonsense_is_lost_and_its_call_unknown(data: bytes, reason: str) -> None:
    async with running_agent(answer=lambda _: data) as agent:
        connection = await connect(agent)
        with pytest.raises(OutcomeUnknown, match=reason):
            await connection.statistics()
        assert connection.lost.is_set()
        with pytest.raises(HostUnreachable, match=reason):
            await connection.statistics()
        await agent.until(lambda: agent.ends)


async def test_what_came_whole_before_the_nonsense_still_counts() -> None:
    async with running_agent(answer=lambda request: answer_all(request) + b"NONSENSE\n") as agent:
        connection = await connect(agent)
        assert (await connection.statistics()).vm_count == 2
        assert connection.lost.is_set()


@pytest.mark.parametrize(
    ("last_words", "reason"),
    [(b"", "closed the connection$"), (b"MESS", "closed the connection within a frame")],
)
async def test_a_host_that_hangs_up_is_lost(agent: Agent, last_words: bytes, reason: str) -> None:
    connection = await connect(agent)
    agent.answer = nothing
    call = asyncio.create_task(connection.statistics())
    await agent.until(lambda: agent.requests)
    agent.peers[0].write(last_words)
    agent.peers[0].close()
    with pytest.raises(OutcomeUnknown, match=reason):
        await call
    assert connection.lost.is_set()


async def test_a_reset_connection_is_lost_with_the_systems_own_words(agent: Agent) -> None:
    connection = await connect(agent)
    agent.answer = nothing
    call = asyncio.create_task(connection.statistics())
    await agent.until(lambda: agent.requests)
    agent.reset()
    with pytest.raises(OutcomeUnknown, match="Connection reset by peer"):
        await call
    assert connection.lost.is_set()


# --- events ---


async def test_events_arrive_parsed_and_in_order(agent: Agent) -> None:
    events: list[HostEvent] = []
    connection = await connect(agent, events=events)
    said = [
        event("|virt|VM_status|v1", {"v1": {"status": "Up", "hash": "1"}, "notify_time": 1500}),
        event("|net|host_conn|no_id", {"notify_time": "2500"}),
        event("|virt|VM_migration_status|v1", {"v1": {"progress": 5}, "notify_time": 3500}),
        event("|jobs|status|j|k", {}),
    ]
    await agent.say(b"".join(said))
    await connection.statistics()
    assert events == [
        HostEvent("vm_status", "v1", {"status": "Up", "hash": "1"}, 1.5),
        HostEvent("network", "no_id", {"notify_time": "2500"}, 2.5),
        HostEvent("virt|VM_migration_status", "v1", {"v1": {"progress": 5}, "notify_time": 3500}, 3.5),
        HostEvent("jobs|status", "j|k", {}, 0.0),
    ]
    await connection.close()


@pytest.mark.parametrize(
    "said",
    [
        event("", {}),
        event(7, {}),
        event("|virt|VM_status", {}),
        event("|virt|VM_status|v1", []),
        event("|virt|VM_status|v1", {"v1": {"status": 1}}),
        event("|virt|VM_status|v1", {"v2": {"status": "Up"}}),
        event("|virt|VM_status|v1", {"v1": {"status": "Up"}, "notify_time": "x"}),
        event("|jobs|status|j", {"notify_time": True}),
    ],
)
async def test_a_malformed_event_is_counted_and_the_connection_goes_on(agent: Agent, said: bytes) -> None:
    events: list[HostEvent] = []
    connection = await connect(agent, events=events)
    await agent.say(said)
    await connection.statistics()
    assert (events, connection.malformed_events) == ([], 1)
    await connection.close()


async def test_a_receiver_of_events_that_fails_loses_the_connection_loudly(agent: Agent) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    def fail(_: HostEvent) -> None:
        raise RuntimeError("a bug of the receiver")

    connection = await VdsmDriver({}).connect(agent.target(), authority=TestAuthority(), on_event=fail)
    await agent.say(event("|jobs|status|j", {}))
    async with asyncio.timeout(10):
        await connection.lost.wait()
    assert "a bug of the receiver" in str(complaints[0]["exception"])


# --- heart-beats ---


async def test_heart_beats_go_out_when_nothing_else_does_and_none_when_turned_off() -> None:
    def wants_one_each_20_ms(_: Frame) -> bytes:
        return b"CONNECTED\nversion:1.2\nheart-beat:0,20\n\n\0"

    async with running_agent(greet=wants_one_each_20_ms) as agent:
        connection = await connect(agent, heartbeat_interval=0.02)
        await agent.until(lambda: agent.heartbeats >= 3)
        await connection.close()
    async with running_agent(greet=wants_one_each_20_ms) as agent:
        connection = await connect(agent, heartbeat_interval=0)
        assert agent.frames[0].headers["heart-beat"] == "0,0"
        assert connection.wire._timer is None
        await connection.close()


async def test_a_silent_host_is_lost_after_two_of_its_heart_beats() -> None:
    async with running_agent(
        greet=lambda _: b"CONNECTED\nversion:1.2\nheart-beat:50,0\n\n\0", answer=nothing
    ) as agent:
        loop = asyncio.get_running_loop()
        connection = await connect(agent, heartbeat_interval=0.05)
        began = loop.time()
        with pytest.raises(OutcomeUnknown, match=r"silent for 0\.\d s"):
            await connection.statistics()
        assert connection.lost.is_set()
        assert 0.09 <= loop.time() - began < 2.0


async def test_a_host_that_only_sends_heart_beats_is_not_lost() -> None:
    async with running_agent(greet=lambda _: b"CONNECTED\nversion:1.2\nheart-beat:100,0\n\n\0") as agent:
        connection = await connect(agent, heartbeat_interval=0.1)
        silence = asyncio.create_task(connection.lost.wait())
        for _ in range(8):
            await agent.say(b"\n")
            await asyncio.wait({silence}, timeout=0.05)
        assert not connection.lost.is_set()
        silence.cancel()
        await connection.close()


# --- the end ---


async def test_closing_resets_the_connection_and_leaves_calls_unknown_and_no_tasks() -> None:
    async with running_agent(answer=nothing) as agent:
        before = asyncio.all_tasks()
        connection = await connect(agent)
        call = asyncio.create_task(connection.statistics())
        await agent.until(lambda: agent.requests)
        await connection.close()
        with pytest.raises(OutcomeUnknown, match="closed by this engine"):
            await call
        assert connection.lost.is_set()
        await connection.close()
        await agent.until(lambda: agent.ends)
        assert agent.ends == ["ConnectionResetError"]
        serving = {task for task in asyncio.all_tasks() if "Agent.serve" in repr(task)}
        assert asyncio.all_tasks() - serving == before - serving


async def test_closing_a_lost_connection_is_quiet(agent: Agent) -> None:
    connection = await connect(agent)
    agent.reset()
    async with asyncio.timeout(10):
        await connection.lost.wait()
    await connection.close()
    assert connection.wire.over is not None
    assert "closed by this engine" not in connection.wire.over
