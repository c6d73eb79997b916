"""The driver's options, `[driver_vdsm]`: how patient it is, how it proves who it is, and its way by SSH.

`Settings.from_values` turns the values into what the code is given, and refuses those that do not fit
together. Deadlines and limits may change while the engine runs: they hold for later connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from oslo_config import cfg

from engine.plugin import InvalidInput

OPTIONS: Final = (
    cfg.FloatOpt(
        "connect_timeout",
        mutable=True,
        default=10.0,
        min=0.1,
        max=300.0,
        help="Seconds from opening the socket to a subscribed session, the TLS handshake included. "
        "The default outlives three lost SYN packets (sent again after 1, 3 and 7 seconds), which a host "
        "under load or a switch that learns may cost, and no more: a dead host is tried again anyway.",
    ),
    cfg.FloatOpt(
        "call_timeout",
        mutable=True,
        default=30.0,
        min=0.1,
        max=3600.0,
        help="Seconds until a call that was sent and not answered is given up; its outcome is then unknown. "
        "The agent answers what is polled from memory, so the default only has to outlast a busy agent "
        "whose eight workers clear their queue; it equals the silence that the agent's own clients bear.",
    ),
    cfg.FloatOpt(
        "heartbeat_interval",
        mutable=True,
        default=25.0,
        min=0.0,
        max=300.0,
        help="Seconds between heart-beats in each direction; a host from which nothing came for two "
        "intervals is lost. 0 turns them off; the agent raises anything below 1 to 1. The default is "
        "longer than the time between two polls, whose traffic takes the place of heart-beats and whose "
        "timeouts notice a black-holed host first, and shorter than the 30 s after which agents give up.",
    ),
    cfg.IntOpt(
        "max_message_bytes",
        mutable=True,
        default=16 * 1024 * 1024,
        min=64 * 1024,
        max=1024 * 1024 * 1024,
        help="Bytes of the largest message accepted from a host; a larger one ends the connection. The "
        "statistics of a VM are 1-10 KB, so the default has room for a thousand VMs on one host while "
        "a host that runs wild cannot fill the engine's memory.",
    ),
    cfg.BoolOpt(
        "tls",
        default=False,
        help="Speak TLS 1.2 or newer and show a certificate, as agents demand unless their configuration "
        "says otherwise. Off by default for now, since it cannot work before the three files below "
        "exist; without it anybody on the network can command the hosts.",
    ),
    cfg.StrOpt(
        "ca_file",
        help="Path of the PEM file with the certificate authorities that sign the hosts' certificates. "
        "Needed with tls; a host whose certificate they did not sign is never spoken to.",
    ),
    cfg.StrOpt("cert_file", help="Path of the PEM file with the engine's own certificate. Needed with tls."),
    cfg.StrOpt(
        "key_file",
        help="Path of the PEM file with the private key of cert_file, without pass phrase. Needed with tls.",
    ),
    cfg.BoolOpt(
        "check_hostname",
        default=False,
        help="Demand also that a host's certificate names the address by which the host is known. Off by "
        "default because hosts are often known by an IP address that their certificates do not name; "
        "the signature is verified in either case.",
    ),
    cfg.StrOpt(
        "ssh_key_file",
        help="Path of a private key, without pass phrase, with which this engine may log in to hosts by SSH "
        "to start a silent agent again (soft fencing; [singleton_host_treatment] soft_fencing). Without it "
        "there is no such way. Needs asyncssh: the extra `soft-fencing`.",
    ),
    cfg.StrOpt(
        "ssh_known_hosts_file",
        help="Path of the file with the hosts' public keys, as of OpenSSH's known_hosts. Needed with "
        "ssh_key_file unless ssh_check_host_key is off; a host that is not in it is not logged in to.",
    ),
    cfg.BoolOpt(
        "ssh_check_host_key",
        default=True,
        help="Demand that a host shows the key that ssh_known_hosts_file has for it. Without, whoever "
        "answers at a host's address is believed to be the host, and sees the command that is run there.",
    ),
    cfg.StrOpt(
        "ssh_user",
        default="root",
        help="As whom to log in. Only root may start a service again, unless ssh_command goes through sudo.",
    ),
    cfg.PortOpt(
        "ssh_port",
        default=22,
        help="Port of the hosts' SSH servers, the same on all hosts; the default is the registered one.",
    ),
    cfg.StrOpt(
        "ssh_command",
        default="/usr/bin/vdsm-tool service-restart vdsmd",
        help="What to run there; success is the exit status 0. {port} in it stands for the port of the "
        "host's agent, where hosts share an address.",
    ),
    cfg.FloatOpt(
        "ssh_timeout",
        default=30.0,
        min=1.0,
        max=300.0,
        help="Seconds for all of it: connecting, logging in and the command, which waits for the agent's "
        "service to stop; systemd kills what has not stopped after 10 s by VDSM's unit.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SshSettings:
    """How to log in to hosts. `known_hosts_file` is None where any host key will do."""

    key_file: str
    known_hosts_file: str | None
    user: str
    port: int
    command: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values of `OPTIONS`. `tls_files` is (authorities, certificate, key), None for plain TCP; `ssh` is
    None where agents cannot be started again from here."""

    connect_seconds: float
    call_seconds: float
    heartbeat_seconds: float
    max_message_bytes: int
    tls_files: tuple[str, str, str] | None
    check_hostname: bool
    ssh: SshSettings | None

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Settings:
        """Fill in defaults. Raises `InvalidInput` naming what is unknown, out of range or missing."""
        known = {option.dest: option for option in OPTIONS}
        fields = {name: "unknown option" for name in values if name not in known}
        read: dict[str, Any] = {}
        for name, option in known.items():
            value = values.get(name, option.default)
            if value is not None:
                try:
                    value = option.type(value)
                except (ValueError, TypeError) as error:
                    fields[name] = str(error)
            read[name] = value
        if read["tls"] is True:
            fields |= {name: "needed with tls" for name in _FILES if not read[name]}
        if read["ssh_key_file"] and read["ssh_check_host_key"] is True and not read["ssh_known_hosts_file"]:
            fields["ssh_known_hosts_file"] = "needed with ssh_key_file, unless ssh_check_host_key is off"
        if fields:
            wrong = "; ".join(f"{name}: {why}" for name, why in sorted(fields.items()))
            raise InvalidInput(f"the options of the vdsm driver do not fit: {wrong}", fields=fields)
        return cls(
            connect_seconds=read["connect_timeout"],
            call_seconds=read["call_timeout"],
            heartbeat_seconds=read["heartbeat_interval"],
            max_message_bytes=read["max_message_bytes"],
            tls_files=(read["ca_file"], read["cert_file"], read["key_file"]) if read["tls"] else None,
            check_hostname=read["check_hostname"],
            ssh=_ssh(read) if read["ssh_key_file"] else None,
        )


def _ssh(read: Mapping[str, Any]) -> SshSettings:
    return SshSettings(
        key_file=read["ssh_key_file"],
        known_hosts_file=read["ssh_known_hosts_file"] if read["ssh_check_host_key"] else None,
        user=read["ssh_user"],
        port=read["ssh_port"],
        command=read["ssh_command"],
        seconds=read["ssh_timeout"],
    )


LOCAL: Final = ("ca_file", "cert_file", "key_file", "ssh_key_file", "ssh_known_hosts_file")
"""Files of one machine."""
_FILES: Final = ("ca_file", "cert_file", "key_file")
