"""The same session, and the same closing from outside, over mutual TLS."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from engine.coordination.closing import close_session
from engine.coordination.identity import TlsSettings
from engine.coordination.local import LocalServer
from engine.coordination.session import Create, SessionSettings, open_session
from engine.errors import Unavailable
from engine.ports import free_port
from tests.contract.coordination.conftest import until


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key (with the certificate: ZooKeeper's way)."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = signed.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate_file, key_file = directory / f"{name}.pem", directory / f"{name}-key.pem"
    certificate_file.write_bytes(pem)
    key_file.write_bytes(private + pem)
    return certificate_file, key_file


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionSettings]:
    """A server that talks to whoever has our client certificate."""
    directory = tmp_path_factory.mktemp("tls")
    server_cert, server_key = certificate(directory, "server")
    client_cert, client_key = certificate(directory, "client")
    port = free_port()
    extra = {
        "secureClientPort": str(port),
        "secureClientPortAddress": "127.0.0.1",
        "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
        "ssl.keyStore.location": str(server_key),
        "ssl.trustStore.location": str(client_cert),
        "ssl.hostnameVerification": "false",
        "ssl.clientAuth": "need",
    }
    with LocalServer(directory / "zookeeper", extra=extra):
        yield SessionSettings(
            hosts=f"127.0.0.1:{port}",
            cluster="tls",
            timeout_seconds=8,
            tick_seconds=0.5,
            tls=TlsSettings(ca_file=str(server_cert), cert_file=str(client_cert), key_file=str(client_key)),
        )


async def test_a_session_over_tls_reads_writes_watches_and_reconnects(secured: SessionSettings) -> None:
    async with open_session(secured) as session:
        root = session.paths.root
        await session.ensure(root)
        async with session.replica(root) as replica:
            await session.commit(*(Create(f"{root}/{n}", b"x" * 1000) for n in range(300)))
            await replica.fresh()
            assert len(replica.nodes) == 301
            session.recipe_client.cut()
            await until(lambda: not session.connected)
            await session.wait_connected(5)
            await session.create(f"{root}/after")
            await until(lambda: replica.current)
            await replica.fresh()
            assert "after" in replica.nodes


async def test_a_dead_engines_session_is_closed_over_tls(secured: SessionSettings) -> None:
    async with open_session(secured) as session:
        await asyncio.to_thread(close_session, secured.hosts, session.identity, tls=secured.tls)
        async with asyncio.timeout(5):
            await session.ended.wait()


async def test_a_server_with_a_strange_certificate_is_refused(
    secured: SessionSettings, tmp_path: Path
) -> None:
    assert secured.tls is not None
    other, _ = certificate(tmp_path, "other")
    tls = TlsSettings(ca_file=str(other), cert_file=secured.tls.cert_file, key_file=secured.tls.key_file)
    doubting = SessionSettings(hosts=secured.hosts, cluster="tls", connect_seconds=1, tls=tls)
    with pytest.raises(Unavailable):
        async with open_session(doubting):
            pass
