"""Mutual TLS between engines: both sides are known to each other by name, or nothing is carried out."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine.clock import utcnow
from engine.coordination.session import SessionSettings
from engine.db.database import Database
from engine.errors import InvalidInput, Unavailable
from engine.execution.options import CertificateFiles, ExecutionSettings
from engine.execution.tls import client_context
from engine.plugin import EngineId, OnMember
from tests.contract.execution.engines import divided, engine_on

B = OnMember(EngineId("b"))


class Authority:
    """Signs certificates for names."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(directory.name))])
        own = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        (directory / "ca.pem").write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def settings(self, name: str, *, callers: frozenset[str] = frozenset()) -> ExecutionSettings:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whatever")])
        signed = self._signed(subject, key, x509.SubjectAlternativeName([x509.DNSName(name)]))
        certificate, secret = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        files = CertificateFiles(
            certificate=str(certificate), key=str(secret), ca=str(self._directory / "ca.pem")
        )
        return ExecutionSettings(files=files, callers=callers)

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = utcnow()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now.replace(year=now.year - 1, day=1))
            .not_valid_after(now.replace(year=now.year + 1, day=1))
            .add_extension(extension, critical=False)
            .sign(self._key, hashes.SHA256())
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


async def test_engines_whose_certificates_name_them_call_each_other(
    settings: SessionSettings, database: Database, authority: Authority
) -> None:
    async with (
        engine_on(settings, "a", database, execution=authority.settings("a")) as a,
        engine_on(settings, "b", database, execution=authority.settings("b")) as b,
    ):
        await divided(a, b)
        assert next(m.calls for m in a.membership.members if m.engine == "b").startswith("https://127.0.0.1:")
        assert await a.calls.call("whose", on=B) == "b"
        assert await b.calls.call("whose", on=OnMember(EngineId("a"))) == "a"


async def test_a_caller_whose_certificate_names_no_member_is_refused_unless_it_is_listed(
    settings: SessionSettings, database: Database, authority: Authority
) -> None:
    listed = frozenset({"gateway"})
    async with (
        engine_on(settings, "a", database, execution=authority.settings("stranger")) as a,
        engine_on(settings, "b", database, execution=authority.settings("b", callers=listed)) as b,
        engine_on(settings, "c", database, execution=authority.settings("gateway")) as c,
    ):
        await divided(a, b, c)
        with pytest.raises(Unavailable, match="names stranger, which is no member of the cluster"):
            await a.calls.call("whose", on=B)
        assert await c.calls.call("whose", on=B) == "b"


async def test_a_callee_whose_certificate_names_another_is_not_told_anything(
    settings: SessionSettings, database: Database, authority: Authority
) -> None:
    async with (
        engine_on(settings, "a", database, execution=authority.settings("a")) as a,
        engine_on(settings, "b", database, execution=authority.settings("c")) as b,
    ):
        await divided(a, b)
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await a.calls.call("whose", on=B)
        assert b.server.begun == 0


async def test_a_certificate_of_another_authority_does_not_get_in(
    settings: SessionSettings, database: Database, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other").settings("a")
    theirs = authority.settings("b")
    assert other.files is not None
    assert theirs.files is not None
    # It trusts us, so the handshake gets as far as its own certificate.
    mixed = CertificateFiles(certificate=other.files.certificate, key=other.files.key, ca=theirs.files.ca)
    async with (
        engine_on(settings, "a", database, execution=ExecutionSettings(files=mixed)) as a,
        engine_on(settings, "b", database, execution=theirs) as b,
    ):
        await divided(a, b)
        with pytest.raises(Unavailable):
            await a.calls.call("whose", on=B)
        assert b.server.begun == 0


async def test_an_engine_without_tls_and_one_with_it_say_so(
    settings: SessionSettings, database: Database, authority: Authority
) -> None:
    async with (
        engine_on(settings, "a", database) as a,
        engine_on(settings, "b", database, execution=authority.settings("b")) as b,
    ):
        await divided(a, b)
        with pytest.raises(Unavailable, match="must be set on all engines or on none"):
            await a.calls.call("whose", on=B)


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "ca.pem")
    with pytest.raises(InvalidInput, match=r"\[execution\] ca: .*ca.pem cannot be used"):
        client_context(CertificateFiles(certificate=missing, key=missing, ca=missing))
