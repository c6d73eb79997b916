"""The agent's STOMP, byte by byte, as it was observed on the wire."""

from __future__ import annotations

import asyncio
import json

import pytest

from plugins.simulator.host import SimulatedHost
from tests.contract.simulator.wire import CONNECT, CONNECTED, Wire, request, send, subscribe, until

PONG = {"jsonrpc": "2.0", "id": "r1", "result": True}


async def test_connect_is_answered_with_version_and_heart_beats(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        wire.write(b"CONNECT\naccept-version:1.2\n\n\0")
        assert await wire.frame() == CONNECTED


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (b"0,0", b"0,0"),
        (b"0,1", b"1000,0"),
        (b"5000,20000", b"20000,5000"),
        (b"10,0", b"0,1000"),
        (b"rubbish", b"0,0"),
        (b"7", b"0,1000"),
    ],
)
async def test_heart_beats_are_mirrored_and_never_below_a_second(
    host: SimulatedHost, asked: bytes, granted: bytes
) -> None:
    async with Wire(host.port) as wire:
        wire.write(b"CONNECT\naccept-version:1.2\nheart-beat:" + asked + b"\n\n\0")
        assert await wire.frame() == b"CONNECTED\nversion:1.2\nheart-beat:" + granted + b"\n\n\0"


@pytest.mark.parametrize("version", [b"accept-version:1.0,1.1,1.2\n", b"accept-version:1.1\n", b""])
async def test_any_accept_version_but_exactly_1_2_is_refused(host: SimulatedHost, version: bytes) -> None:
    async with Wire(host.port) as wire:
        wire.write(b"CONNECT\n" + version + b"heart-beat:0,0\n\n\0")
        assert await wire.frame() == b"ERROR\ncontent-length:19\n\nVersion unsupported\0"
        wire.write(CONNECT)  # the connection lives on
        assert await wire.frame() == CONNECTED


@pytest.mark.parametrize(
    "first",
    [
        b"\n" + CONNECT,
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"CONNACT\nxxxx",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_anything_but_a_stomp_command_at_first_is_reset(host: SimulatedHost, first: bytes) -> None:
    async with Wire(host.port) as wire:
        wire.write(first)
        assert await wire.reset()


async def test_a_frame_that_arrives_byte_by_byte_is_understood(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        for byte in CONNECT:
            wire.write(bytes([byte]))
            await wire.writer.drain()
            await asyncio.sleep(0)
        assert await wire.frame() == CONNECTED


async def test_an_answer_is_a_message_on_the_queue_that_reply_to_named(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        wire.write(CONNECT + subscribe("q", "sub") + send(request("Host.ping2")))
        assert await wire.frame() == CONNECTED
        assert await wire.frame() == (
            b"MESSAGE\ndestination:q\ncontent-type:application/json\nsubscription:sub\ncontent-length:41\n\n"
            b'{"jsonrpc":"2.0","id":"r1","result":true}\0'
        )


@pytest.mark.parametrize(
    "destination", ["jms.topic.vdsm_requests", "jms.topic.vdsm_requests.mine", "jms.topic.vdsm_irs_requests"]
)
async def test_request_queues_are_served_with_all_that_is_below_them(
    host: SimulatedHost, destination: str
) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(send(request("Host.ping2"), destination=destination))
        assert await wire.message() == PONG


async def test_an_unknown_destination_is_an_error_and_the_connection_lives_on(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(send(request("Host.ping2"), destination="jms.topic.vdsm_requestsx"))
        assert await wire.frame() == b"ERROR\ncontent-length:26\n\nSubscription not available\0"
        assert await wire.result("Host.ping2") is True


async def test_a_subscription_id_used_twice_is_an_error_and_the_first_stays(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(subscribe("other", "mine"))
        assert await wire.frame() == b"ERROR\ncontent-length:30\n\nThis subscription id is in use\0"
        assert await wire.result("Host.ping2") is True


async def test_a_subscription_needs_a_destination_and_an_id(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        for incomplete in (b"SUBSCRIBE\nid:7\n\n\0", b"SUBSCRIBE\ndestination:q\n\n\0"):
            wire.write(incomplete)
            assert (await wire.frame()).startswith(b"ERROR\n")


async def test_subscribe_gets_no_receipt(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        wire.write(
            CONNECT + b"SUBSCRIBE\ndestination:q\nid:1\nreceipt:please\n\n\0" + send(request("Host.ping2"))
        )
        assert await wire.frame() == CONNECTED
        assert await wire.message() == PONG


async def test_without_a_subscriber_the_answer_is_dropped_silently(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(send(request("Host.ping2", request_id="lost"), reply_to="nobody"))
        assert await wire.result("Host.ping2") is True  # nothing came before this


async def test_after_unsubscribe_answers_are_dropped(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(subscribe("q2", "2") + b"UNSUBSCRIBE\nid:2\n\n\0" + b"UNSUBSCRIBE\nid:unknown\n\n\0")
        wire.write(send(request("Host.ping2", request_id="lost"), reply_to="q2"))
        assert await wire.result("Host.ping2") is True


async def test_two_connections_that_reuse_an_id_get_each_others_answers(host: SimulatedHost) -> None:
    host.faults.slow_seconds = 0.1  # both requests are under way at once
    async with Wire(host.port) as one, Wire(host.port) as two:
        await one.greet("q1")
        await two.greet("q2")
        one.write(send(request("Host.getVMList", request_id=7), reply_to="q1"))
        one.write(send(request("Host.ping2", request_id="after"), reply_to="q1"))
        await _seen(host, 2)
        two.write(send(request("Host.ping2", request_id=7), reply_to="q2"))
        assert await two.message() == {"jsonrpc": "2.0", "id": 7, "result": []}  # one's answer
        assert (await one.message())["id"] == "after"  # one's own never came


async def test_a_shared_queue_brings_each_connection_the_others_answers(host: SimulatedHost) -> None:
    async with Wire(host.port) as one, Wire(host.port) as two:
        await one.greet("shared")
        await two.greet("shared")
        one.write(send(request("Host.ping2"), reply_to="shared"))
        assert await one.message() == PONG
        assert await two.message() == PONG


async def test_a_connection_that_ends_takes_its_subscriptions_along(host: SimulatedHost) -> None:
    async with Wire(host.port) as stays:
        await stays.greet("shared")
        async with Wire(host.port) as leaves:
            await leaves.greet("shared")
        await until(lambda: host.open_connections == 1)
        assert len(host.broker.subscribers("shared")) == 1
        stays.write(send(request("Host.ping2"), reply_to="shared"))
        assert await stays.message() == PONG


async def test_every_subscriber_of_the_event_queue_gets_every_event(host: SimulatedHost) -> None:
    async with Wire(host.port) as one, Wire(host.port) as two:
        for wire in (one, two):
            wire.write(CONNECT + subscribe("jms.queue.events", "e"))
            await wire.frame()
        await until(lambda: len(host.broker.subscribers("jms.queue.events")) == 2)
        host.emit("|net|host_conn|", {"up": True})
        for wire in (one, two):
            head, _, body = (await wire.frame()).partition(b"\n\n")
            assert head.startswith(
                b"MESSAGE\ndestination:jms.queue.events\ncontent-type:application/json\nsubscription:e"
            )
            event = json.loads(body[:-1])
            assert event["method"] == "|net|host_conn|"
            assert "id" not in event
            assert event["params"]["up"] is True
            assert isinstance(event["params"]["notify_time"], int)


async def test_messages_between_clients_are_forwarded(host: SimulatedHost) -> None:
    async with Wire(host.port) as one, Wire(host.port) as two:
        await one.greet("q1")
        await two.greet("q2")
        one.write(send(b"hello", destination="q2.below", reply_to=None))
        frame = await two.frame()
        assert frame.startswith(b"MESSAGE\nsubscription:mine\ndestination:q2.below\n")
        assert frame.endswith(b"\n\nhello\0")


async def test_disconnect_with_a_receipt_is_acknowledged(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(b"DISCONNECT\nreceipt:77\n\n\0")
        assert await wire.frame() == b"RECEIPT\nreceipt-id:77\n\n\0"


@pytest.mark.parametrize(
    "deadly",
    [
        b"DISCONNECT\n\n\0",
        b"SUBSCRIBE\ndestination:a:b\nid:1\n\n\0",
        b"CONNECT\naccept-version:1.2\nhost:127.0.0.1:54321\n\n\0",
        b"BEGIN\ntransaction:1\n\n\0",
        b"SEND\nreply-to:q\n\n{}\0",
        b"SEND\ndestination:q\ncontent-length:3\n\nabcdef\0",
        b"NONSENSE\n\n\0",
    ],
)
async def test_these_frames_kill_the_connection(host: SimulatedHost, deadly: bytes) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(deadly)
        await wire.reset()
    async with Wire(host.port) as wire:  # the host is unharmed
        await wire.greet()
        assert await wire.result("Host.ping2") is True


async def test_what_came_before_a_malformed_frame_is_still_carried_out(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        wire.write(send(request("Host.ping2")) + b"NONSENSE\n\n\0")
        await wire.reset()
    assert host.counters.requests == 1


async def test_the_host_beats_when_it_has_nothing_to_say(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        wire.write(b"CONNECT\naccept-version:1.2\nheart-beat:0,1000\n\n\0")
        await wire.frame()
        async with asyncio.timeout(10):
            assert await wire.reader.readexactly(2) == b"\n\n"


async def test_a_client_that_promised_heart_beats_and_is_late_is_dropped(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        wire.write(b"CONNECT\naccept-version:1.2\nheart-beat:1000,0\n\n\0")
        await wire.frame()
        await wire.reset()


async def _seen(host: SimulatedHost, requests: int) -> None:
    await until(lambda: host.counters.requests >= requests)
