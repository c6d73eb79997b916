"""Mutual TLS: who is let in, who is not and in which words, and data of any size in any pieces."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as pem

from engine.plugin import HostUnreachable, InvalidInput, OutcomeUnknown
from plugins.drivers.vdsm import VdsmDriver
from plugins.drivers.vdsm.connection import VdsmConnection
from plugins.drivers.vdsm.tls import TlsChannel, TlsFault, client_context
from tests.unit.plugins.vdsm.agent import Agent, TestAuthority, result, running_agent
from tests.unit.plugins.vdsm.certificates import CertificateAuthority, agent_context


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


def options(authority: CertificateAuthority, certificate: tuple[str, str], **more: Any) -> dict[str, Any]:
    cert_file, key_file = certificate
    return {"tls": True, "ca_file": authority.file, "cert_file": cert_file, "key_file": key_file, **more}


def serving(authority: CertificateAuthority, **more: Any) -> ssl.SSLContext:
    return agent_context(authority.file, *authority.issue("agent", **more))


async def connect(agent: Agent, values: Mapping[str, Any]) -> VdsmConnection:
    return await VdsmDriver(values).connect(agent.target(), authority=TestAuthority(), on_event=print)


async def test_both_sides_show_their_certificates_and_calls_go_through(
    authority: CertificateAuthority,
) -> None:
    async with running_agent(tls=serving(authority)) as agent:
        connection = await connect(agent, options(authority, authority.issue("engine")))
        assert (await connection.capabilities()).cpu_cores == 4
        assert agent.peers[0].get_extra_info("peercert")["subject"] == ((("commonName", "engine"),),)
        await connection.close()
        await agent.until(lambda: agent.ends)


async def test_tls_1_2_is_spoken_with_agents_that_know_no_newer(authority: CertificateAuthority) -> None:
    context = serving(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with running_agent(tls=context) as agent:
        connection = await connect(agent, options(authority, authority.issue("engine")))
        assert agent.peers[0].get_extra_info("cipher")[1] == "TLSv1.2"
        assert (await connection.statistics()).vm_count == 2
        await connection.close()


def test_nothing_older_than_tls_1_2_is_spoken(authority: CertificateAuthority) -> None:
    context = client_context(authority.file, *authority.issue("engine"))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED


async def test_messages_of_megabytes_pass_in_both_directions(authority: CertificateAuthority) -> None:
    big = "x" * 3_000_000
    sent = "y" * 100_000

    def answer(request: Mapping[str, Any]) -> bytes:
        return result(request, big if request["params"].get("x") == sent else "not what was sent")

    async with running_agent(tls=serving(authority), answer=answer) as agent:
        connection = await connect(agent, options(authority, authority.issue("engine")))
        for _ in range(3):
            assert await connection.call("X", {"x": sent}, operation_id=None) == big
        await connection.close()


async def test_a_host_of_another_authority_is_unreachable(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    stranger = CertificateAuthority(tmp_path, "stranger")
    context = agent_context(authority.file, *stranger.issue("agent"))
    async with running_agent(tls=context) as agent:
        with pytest.raises(HostUnreachable, match="TLS failed: CERTIFICATE_VERIFY_FAILED"):
            await connect(agent, options(authority, authority.issue("engine")))


async def test_a_host_with_an_expired_certificate_is_unreachable(authority: CertificateAuthority) -> None:
    async with running_agent(tls=serving(authority, expired=True)) as agent:
        with pytest.raises(HostUnreachable, match="TLS failed: CERTIFICATE_VERIFY_FAILED"):
            await connect(agent, options(authority, authority.issue("engine")))


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_engine_that_the_host_does_not_know_is_told_so(
    authority: CertificateAuthority, tmp_path: Path, newest: ssl.TLSVersion
) -> None:
    stranger = CertificateAuthority(tmp_path, "stranger")
    context = serving(authority)
    context.maximum_version = newest
    async with running_agent(tls=context) as agent:
        with pytest.raises(HostUnreachable, match=r"TLS failed: .*UNKNOWN_CA|closed|reset"):
            await connect(agent, options(authority, stranger.issue("engine")))


async def test_the_address_in_the_certificate_matters_only_where_it_is_asked_for(
    authority: CertificateAuthority,
) -> None:
    engine = authority.issue("engine")
    async with running_agent(tls=serving(authority)) as agent:
        await (await connect(agent, options(authority, engine))).close()
        with pytest.raises(HostUnreachable, match="TLS failed: CERTIFICATE_VERIFY_FAILED"):
            await connect(agent, options(authority, engine, check_hostname=True))
    async with running_agent(tls=serving(authority, address="127.0.0.1")) as agent:
        await (await connect(agent, options(authority, engine, check_hostname=True))).close()


async def test_a_host_that_does_not_speak_tls_is_unreachable(authority: CertificateAuthority) -> None:
    async def hang_up_in_clear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"ERROR\n\nhello\0" * 10)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hang_up_in_clear, "127.0.0.1", 0)
    agent = Agent(port=server.sockets[0].getsockname()[1])
    with pytest.raises(HostUnreachable, match="TLS failed: WRONG_VERSION_NUMBER"):
        await connect(agent, options(authority, authority.issue("engine")))
    server.close()
    await server.wait_closed()


async def test_an_engine_without_tls_is_not_served_by_a_host_with_it(authority: CertificateAuthority) -> None:
    async with running_agent(tls=serving(authority)) as agent:
        with pytest.raises(HostUnreachable):
            await connect(agent, {"connect_timeout": 2.0})


async def test_a_host_that_never_shakes_hands_is_given_up(authority: CertificateAuthority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        agent = Agent(port=deaf.getsockname()[1])
        with pytest.raises(HostUnreachable, match=r"no session within 0\.2 s"):
            await connect(agent, options(authority, authority.issue("engine"), connect_timeout=0.2))


async def test_an_orderly_end_of_tls_loses_the_connection(authority: CertificateAuthority) -> None:
    async with running_agent(tls=serving(authority)) as agent:
        connection = await connect(agent, options(authority, authority.issue("engine")))
        agent.answer = lambda _: b""
        call = asyncio.create_task(connection.statistics())
        await agent.until(lambda: agent.requests)
        agent.peers[0].close()
        with pytest.raises(OutcomeUnknown, match=r"TLS failed: .*session|closed the connection"):
            await call


@pytest.mark.parametrize("piece", [1, 7, 5000, 1 << 20])
def test_records_in_any_pieces_open_to_the_same_bytes(authority: CertificateAuthority, piece: int) -> None:
    channel, server, to_server, to_client = handshaken(authority)
    data = bytes(range(256)) * 300
    server.write(data)
    records = to_client.read()
    opened = b"".join(
        channel.open(memoryview(records[at : at + piece])) for at in range(0, len(records), piece)
    )
    assert opened == data
    to_server.write(channel.seal(b"hello"))
    assert server.read() == b"hello"


def test_a_flipped_bit_is_noticed(authority: CertificateAuthority) -> None:
    channel, server, _, to_client = handshaken(authority)
    server.write(b"hello")
    records = bytearray(to_client.read())
    records[-1] ^= 1
    with pytest.raises(TlsFault, match=r"BAD_RECORD_MAC|DECRYPTION_FAILED"):
        channel.open(memoryview(records))


def handshaken(
    authority: CertificateAuthority,
) -> tuple[TlsChannel, ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving(authority).wrap_bio(to_server, to_client, server_side=True)
    channel = TlsChannel(client_context(authority.file, *authority.issue("engine")), "127.0.0.1")
    channel.begin()
    shaken = False
    while not shaken:
        to_server.write(channel.outgoing())
        try:
            server.do_handshake()
            shaken = True
        except ssl.SSLWantReadError:
            pass
        assert channel.open(memoryview(to_client.read())) == b""
    assert channel.established
    return channel, server, to_server, to_client


@pytest.mark.parametrize("broken", ["ca_file", "cert_file", "key_file"])
def test_a_file_that_is_no_pem_is_refused_by_its_option(
    authority: CertificateAuthority, tmp_path: Path, broken: str
) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_text("hello")
    values = {**options(authority, authority.issue("engine")), broken: str(garbage)}
    with pytest.raises(InvalidInput, match="garbage") as refused:
        VdsmDriver(values)
    assert broken.replace("key_file", "cert_file") in refused.value.fields


def test_a_key_with_a_pass_phrase_is_refused_rather_than_asked_for_at_the_terminal(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    cert_file, key_file = authority.issue("engine")
    key = pem.load_pem_private_key(Path(key_file).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"open sesame")
        )
    )
    with pytest.raises(InvalidInput, match="pass phrase"):
        VdsmDriver(options(authority, (cert_file, str(locked))))
