"""The options: defaults that work, and values that do not fit refused by the name of the option."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from oslo_config import cfg

from engine import options
from engine.plugin import InvalidInput
from plugins.drivers.vdsm import VdsmDriver
from plugins.drivers.vdsm.options import OPTIONS, Settings


def test_the_defaults_are_plain_tcp_with_heart_beats() -> None:
    settings = Settings.from_values({})
    assert settings.tls_files is None
    assert settings.heartbeat_seconds == 25.0


def test_what_oslo_config_reads_is_what_the_driver_takes() -> None:
    conf = cfg.ConfigOpts()
    conf.register_opts(VdsmDriver.options, group="driver_vdsm")
    conf(args=[], default_config_files=[])
    conf.set_override("call_timeout", 5.5, group="driver_vdsm")
    assert Settings.from_values(dict(conf.driver_vdsm.items())).call_seconds == 5.5


def test_every_option_tells_its_reason() -> None:
    assert all(len(option.help or "") > 60 for option in OPTIONS)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"connect_timeout": 0}, "connect_timeout"),
        ({"call_timeout": "soon"}, "call_timeout"),
        ({"heartbeat_interval": -1}, "heartbeat_interval"),
        ({"max_message_bytes": 1}, "max_message_bytes"),
        ({"tls": "perhaps"}, "tls"),
        ({"speed": 1}, "speed"),
        ({"tls": True, "ca_file": "a", "cert_file": "b"}, "key_file"),
        ({"tls": True, "ca_file": "/nonexistent/ca.pem", "cert_file": "b", "key_file": "c"}, "ca_file"),
        ({"ssh_key_file": "/nonexistent/key"}, "ssh_known_hosts_file"),
        ({"ssh_key_file": "/nonexistent/key", "ssh_known_hosts_file": "/nonexistent/hosts"}, "ssh_key_file"),
        ({"ssh_key_file": "/dev/null", "ssh_check_host_key": False}, "ssh_key_file"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        VdsmDriver(values)
    assert field in refused.value.fields


def test_a_key_without_asyncssh_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    VdsmDriver({})
    with pytest.raises(InvalidInput, match="install the extra soft-fencing"):
        VdsmDriver({"ssh_key_file": "/dev/null", "ssh_check_host_key": False})


def test_files_belong_to_one_machine_and_the_cluster_does_not_set_them() -> None:
    declared = options.catalogue().get("driver_vdsm/ssh_key_file")
    assert declared is not None
    assert declared.local
    shared = options.catalogue().get("driver_vdsm/ssh_port")
    assert shared is not None
    assert not shared.local
    assert set(VdsmDriver.local) <= {option.dest for option in OPTIONS}
