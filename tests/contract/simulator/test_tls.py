"""Mutual TLS: who is served, who is not, and that hosts reach each other through it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from engine.local_cluster.certificates import CertificateFiles, write_certificates
from plugins.simulator.tls import client_context
from tests.contract.simulator.conftest import START_SECONDS, Simulate, Simulation
from tests.contract.simulator.wire import CONNECT, Wire, request, send, subscribe


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return write_certificates(tmp_path_factory.mktemp("tls"))


def engine_context(files: CertificateFiles) -> ssl.SSLContext:
    return client_context(files.certificate("engine"), files.key("engine"), files.ca)


def options(files: CertificateFiles) -> list[str]:
    certificate, key = files.certificate("host"), files.key("host")
    return ["--tls-cert", str(certificate), "--tls-key", str(key), "--tls-ca", str(files.ca)]


@pytest.fixture
async def simulation(simulate: Simulate, files: CertificateFiles) -> Simulation:
    return await simulate("--hosts", "2", "--migrate-seconds", "0.05", *options(files))


async def test_a_client_with_a_certificate_of_the_authority_is_served(
    simulation: Simulation, files: CertificateFiles
) -> None:
    assert simulation.ready["tls"] is True
    async with Wire(simulation.ports[0], tls=engine_context(files)) as wire:
        await wire.greet()
        assert await wire.result("Host.ping2") is True


async def _refused(port: int, context: ssl.SSLContext) -> bool:
    """True if the host ends the connection in the handshake, or right after what the client takes for it."""
    try:
        async with Wire(port, tls=context) as wire, asyncio.timeout(START_SECONDS):
            wire.write(CONNECT)
            return await wire.reader.read() == b""
    except (ssl.SSLError, ConnectionResetError):
        return True


async def test_a_client_without_a_certificate_is_refused(
    simulation: Simulation, files: CertificateFiles
) -> None:
    context = ssl.create_default_context(cafile=files.ca)
    context.check_hostname = False
    assert await _refused(simulation.ports[0], context)


async def test_a_certificate_of_another_authority_is_refused(
    simulation: Simulation, files: CertificateFiles, tmp_path: Path
) -> None:
    others = write_certificates(tmp_path)
    context = client_context(others.certificate("engine"), others.key("engine"), files.ca)
    assert await _refused(simulation.ports[0], context)


async def test_a_client_in_clear_is_refused(simulation: Simulation, files: CertificateFiles) -> None:
    async with Wire(simulation.ports[0]) as wire:
        wire.write(CONNECT)
        async with asyncio.timeout(START_SECONDS):
            assert b"CONNECTED" not in await wire.reader.read()
    async with Wire(simulation.ports[0], tls=engine_context(files)) as other:
        await other.greet()


async def test_hosts_migrate_vms_over_tls(simulation: Simulation, files: CertificateFiles) -> None:
    here, there = simulation.ports
    await simulation.simulator.add_vms([here], ids=["v"])
    async with Wire(here, tls=engine_context(files)) as wire:
        await wire.greet()
        migrate = {"vmID": "v", "params": {"dst": f"127.0.0.1:{there}"}}
        wire.write(subscribe("jms.queue.events", "e") + send(request("VM.migrate", migrate)))
        said = [await wire.message() for _ in range(3)]
        assert said[2]["params"]["v"]["exitReason"] == 4
    assert await simulation.simulator.vms() == {here: {"v": "Down"}, there: {"v": "Up"}}


async def test_a_refusing_host_resets_tls_connections_too(
    simulation: Simulation, files: CertificateFiles
) -> None:
    async with Wire(simulation.ports[0], tls=engine_context(files)) as wire:
        await wire.greet()
        await simulation.simulator.refuse([simulation.ports[0]])
        assert await wire.reset()
