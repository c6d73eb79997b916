"""`[coordination]`: where ZooKeeper is and how a session with it is kept."""

from __future__ import annotations

from oslo_config import cfg

from engine.coordination.identity import TlsSettings

GROUP = "coordination"
LOCAL = "all"
"""These belong to one machine: the cluster's configuration never sets them."""

OPTS = [
    cfg.StrOpt(
        "hosts",
        default="127.0.0.1:2181",
        help="ZooKeeper servers, `host:port` separated by commas. Name all members of the ensemble.",
    ),
    cfg.StrOpt(
        "cluster",
        default="default",
        regex=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        help="Name of the cluster of engines. Its tree in ZooKeeper is /engine/<cluster>.",
    ),
    cfg.FloatOpt(
        "timeout_seconds",
        default=10.0,
        min=1.0,
        max=60.0,
        help="Session timeout asked of ZooKeeper, in seconds. An engine whose machine is lost is replaced"
        " after it; an engine that is cut off stops acting a heartbeat and a tick earlier. Must be at"
        " least four ticks; the server may negotiate another.",
    ),
    cfg.FloatOpt(
        "tick_seconds",
        default=2.0,
        min=0.05,
        max=10.0,
        help="The tickTime of the ZooKeeper servers, in seconds (their default: 2). It is subtracted from"
        " the time for which an engine may act without an answer, since a server expires sessions in"
        " whole ticks. Too small a value here is unsafe.",
    ),
    cfg.FloatOpt(
        "connect_seconds",
        default=10.0,
        min=0.5,
        max=120.0,
        help="How long one attempt to reach any server may take, in seconds; attempts go on after it.",
    ),
    cfg.BoolOpt("tls", default=False, help="Speak TLS with the ZooKeeper servers."),
    cfg.StrOpt("tls_ca_file", help="PEM file of the authorities that sign the servers' certificates."),
    cfg.StrOpt("tls_cert_file", help="PEM file of this client's certificate."),
    cfg.StrOpt("tls_key_file", help="PEM file of the key of `tls_cert_file`."),
    cfg.BoolOpt("tls_verify", default=True, help="Check the servers' certificates against `tls_ca_file`."),
    cfg.StrOpt(
        "digest",
        secret=True,
        help="`user:password` for ZooKeeper's digest authentication. Nodes are then made readable and"
        " writable by this user only.",
    ),
]


def tls_settings(group: cfg.ConfigOpts.GroupAttr) -> TlsSettings | None:
    """From a group that has the `tls` options; None where TLS is off."""
    if not group.tls:
        return None
    return TlsSettings(
        ca_file=group.tls_ca_file,
        cert_file=group.tls_cert_file,
        key_file=group.tls_key_file,
        verify=group.tls_verify,
    )
