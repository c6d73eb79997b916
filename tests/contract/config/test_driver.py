"""The oslo.config driver, as any oslo program uses it, on a real ZooKeeper."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl
from oslo_config import cfg

from engine.config import cache
from engine.coordination.identity import TlsSettings
from engine.coordination.local import LocalServer
from engine.coordination.settings import SessionSettings
from engine.coordination.snapshot import read_tree
from engine.errors import InvalidInput, NotFound, Unavailable
from engine.ports import free_port
from engine.secrets import Secrets
from tests.contract.config.conftest import Put

OPTIONS = [
    cfg.IntOpt("interval", default=60, min=1),
    cfg.StrOpt("policy", default="even"),
    cfg.StrOpt("greeting"),
    cfg.ListOpt("names", default=[]),
    cfg.MultiStrOpt("paths", default=[]),
    cfg.StrOpt("dashed-name"),
    cfg.IntOpt("pin", secret=True),
]


class Program:
    """An oslo program with the options above in `[scheduler]` and `debug` in `[DEFAULT]`."""

    def __init__(self, directory: Path, hosts: str, cluster: str) -> None:
        self.file = directory / "program.conf"
        self.cache_file = directory / "cache" / "values.json"
        self.source = {
            "driver": "zookeeper",
            "hosts": hosts,
            "cluster": cluster,
            "timeout": "5",
            "cache_file": str(self.cache_file),
        }

    def write(self, text: str = "") -> str:
        source = "".join(f"{name} = {value}\n" for name, value in self.source.items())
        self.file.write_text(f"[DEFAULT]\nconfig_source = cluster\n[cluster]\n{source}{text}")
        return str(self.file)

    def start(
        self, *arguments: str, text: str = "", defaults: dict[str, object] | None = None
    ) -> cfg.ConfigOpts:
        conf = cfg.ConfigOpts()
        conf.register_cli_opts(OPTIONS[:2], group="scheduler")
        conf.register_opts(OPTIONS[2:], group="scheduler")
        conf.register_opt(cfg.BoolOpt("debug", default=False))
        for name, value in (defaults or {}).items():
            conf.set_default(name, value, group="scheduler")
        conf(list(arguments), default_config_files=[self.write(text)])
        return conf


@pytest.fixture
def program(tmp_path: Path, zookeeper: LocalServer, cluster_name: str) -> Program:
    return Program(tmp_path, zookeeper.hosts, cluster_name)


def test_values_of_every_kind_come_from_their_nodes(program: Program, put: Put) -> None:
    put("DEFAULT/debug", "true")
    put("scheduler/interval", "30")
    put("scheduler/policy", '"power saving"')
    put("scheduler/names", '["a", "b"]')
    put("scheduler/paths", '["/x", "/y"]')
    put("scheduler/dashed-name", "found")
    conf = program.start()
    assert conf.debug is True
    assert conf.scheduler.interval == 30
    assert conf.scheduler.policy == "power saving"
    assert conf.scheduler.names == ["a", "b"]
    assert conf.scheduler.paths == ["/x", "/y"]
    assert conf.scheduler.dashed_name == "found"
    assert conf.scheduler.greeting is None


def test_a_value_may_name_another_option(program: Program, put: Put) -> None:
    put("scheduler/greeting", "every ${interval} s")
    put("scheduler/interval", "30")
    assert program.start().scheduler.greeting == "every 30 s"


def test_a_change_is_visible_at_the_next_start_only(program: Program, put: Put) -> None:
    put("scheduler/interval", "30")
    conf = program.start()
    put("scheduler/interval", "31")
    assert conf.scheduler.interval == 30
    assert program.start().scheduler.interval == 31


def test_precedence_is_override_command_line_environment_file_cluster_default(
    program: Program, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file = "[scheduler]\ninterval = 2\n"
    assert program.start().scheduler.interval == 60
    assert program.start(defaults={"interval": 50}).scheduler.interval == 50
    put("scheduler/interval", "1")
    assert program.start(defaults={"interval": 50}).scheduler.interval == 1
    assert program.start(text=in_file).scheduler.interval == 2
    monkeypatch.setenv("OS_SCHEDULER__INTERVAL", "3")
    assert program.start().scheduler.interval == 3
    assert program.start(text=in_file).scheduler.interval == 3
    conf = program.start("--scheduler-interval", "4")
    assert conf.scheduler.interval == 4
    conf.set_override("interval", 5, group="scheduler")
    assert conf.scheduler.interval == 5


def test_oddity_of_oslo_config_an_option_in_a_file_lets_the_environment_win_over_the_command_line(
    program: Program, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not ours: held here so that the documentation of the driver is true. Update both when it fails."""
    put("scheduler/interval", "1")
    monkeypatch.setenv("OS_SCHEDULER__INTERVAL", "3")
    conf = program.start("--scheduler-interval", "4", text="[scheduler]\ninterval = 2\n")
    assert conf.scheduler.interval == 3


def test_a_value_of_the_wrong_type_names_the_option_and_its_node(
    program: Program, put: Put, root: str
) -> None:
    put("scheduler/interval", "often")
    with pytest.raises(cfg.ConfigSourceValueError) as raised:
        _ = program.start().scheduler.interval
    assert str(raised.value) == (
        f"Value for option [scheduler] interval from ZooKeeper node {root}/scheduler/interval is not valid:"
        " invalid literal for int() with base 10: 'often'"
    )


def test_a_value_out_of_range_tells_the_range(program: Program, put: Put) -> None:
    put("scheduler/interval", "0")
    with pytest.raises(cfg.ConfigSourceValueError, match="greater than or equal to 1"):
        _ = program.start().scheduler.interval


def test_a_bad_secret_is_not_shown(program: Program, put: Put) -> None:
    put("scheduler/pin", "hunter2")
    with pytest.raises(cfg.ConfigSourceValueError) as raised:
        _ = program.start().scheduler.pin
    assert "hunter2" not in str(raised.value)
    assert "/scheduler/pin" in str(raised.value)


def test_oslo_config_knows_where_a_value_came_from(program: Program, put: Put, root: str) -> None:
    put("scheduler/interval", "30")
    location = program.start().get_location("interval", "scheduler")
    assert location is not None
    assert location.location is cfg.Locations.user
    assert location.detail == f"ZooKeeper node {root}/scheduler/interval"


def test_what_was_read_is_kept_in_a_private_file(program: Program, put: Put, root: str) -> None:
    put("scheduler/interval", "30")
    program.start()
    assert stat.S_IMODE(program.cache_file.stat().st_mode) == 0o600
    kept = cache.load(program.cache_file, f"{program.source['hosts']}{root}")
    assert kept.values["scheduler/interval"] == b"30"


def test_with_zookeeper_away_the_last_known_values_serve_with_a_warning_that_tells_their_age(
    tmp_path: Path, own_zookeeper: LocalServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = KazooClient(hosts=own_zookeeper.hosts)
    client.start(timeout=10)
    client.create("/engine/c/config/scheduler/interval", b"30", makepath=True)
    client.stop()
    client.close()
    program = Program(tmp_path, own_zookeeper.hosts, "c")
    assert program.start().scheduler.interval == 30
    own_zookeeper.stop()
    program.source["timeout"] = "0.3"
    caplog.clear()
    assert program.start().scheduler.interval == 30
    (warning,) = [record for record in caplog.records if record.name == "engine.config.driver"]
    assert warning.levelno == logging.WARNING
    said = warning.getMessage()
    assert f"{own_zookeeper.hosts} did not answer within 0.3 s" in said
    assert "going on with the values of" in said
    assert " s ago (" in said
    assert str(program.cache_file) in said


def test_with_zookeeper_frozen_the_start_takes_no_longer_than_told(
    tmp_path: Path, own_zookeeper: LocalServer
) -> None:
    own_zookeeper.freeze()
    began = time.monotonic()
    try:
        with pytest.raises(Unavailable, match=r"did not answer within 0\.5 s"):
            read_tree(SessionSettings(hosts=own_zookeeper.hosts, connect_seconds=0.5), "/engine/c/config")
    finally:
        own_zookeeper.thaw()
    assert time.monotonic() - began < 3


def test_with_neither_zookeeper_nor_a_copy_the_program_ends_and_says_why(tmp_path: Path) -> None:
    program = Program(tmp_path, f"127.0.0.1:{free_port()}", "c")
    program.source["timeout"] = "0.3"
    with pytest.raises(SystemExit) as ended:
        program.start()
    said = str(ended.value)
    assert said.startswith("configuration source [cluster]: ZooKeeper at 127.0.0.1:")
    assert f"there is no cached copy at {program.cache_file}" in said


def test_a_real_program_exits_with_one_line_and_a_failure(tmp_path: Path) -> None:
    program = Program(tmp_path, f"127.0.0.1:{free_port()}", "c")
    program.source["timeout"] = "0.3"
    script = f"from oslo_config import cfg; cfg.CONF(['--config-file', {program.write()!r}])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "configuration source [cluster]: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_tree_without_configuration_is_no_error_but_is_told(
    program: Program, caplog: pytest.LogCaptureFixture, root: str
) -> None:
    assert program.start().scheduler.interval == 60
    assert f"nothing is configured at {program.source['hosts']}{root}" in caplog.text


def test_a_source_without_hosts_is_refused(program: Program) -> None:
    del program.source["hosts"]
    with pytest.raises(SystemExit, match="hosts"):
        program.start()


@pytest.mark.parametrize("hosts", ["", "zk1:not-a-port", "zk1:2181/chroot"])
def test_hosts_that_are_none_are_refused(hosts: str) -> None:
    with pytest.raises(InvalidInput):
        read_tree(SessionSettings(hosts=hosts, connect_seconds=0.3), "/engine/c/config")


def test_tls_towards_a_server_without_it_is_no_answer(zookeeper: LocalServer) -> None:
    settings = SessionSettings(hosts=zookeeper.hosts, connect_seconds=0.5, tls=TlsSettings(verify=False))
    with pytest.raises(Unavailable):
        read_tree(settings, "/engine/c/config")


def test_an_unwritable_cache_is_told_and_does_not_stop_the_start(
    program: Program, put: Put, caplog: pytest.LogCaptureFixture
) -> None:
    put("scheduler/interval", "30")
    program.source["cache_file"] = "/proc/none/values.json"
    assert program.start().scheduler.interval == 30
    assert "could not be cached in /proc/none/values.json" in caplog.text


def test_values_that_only_one_user_may_read_need_the_digest(
    program: Program, zookeeper: LocalServer, root: str
) -> None:
    client = KazooClient(hosts=zookeeper.hosts, auth_data=[("digest", "op:word")])
    client.start(timeout=10)
    client.ensure_path(f"{root}/scheduler")
    client.create(f"{root}/scheduler/interval", b"30", acl=[make_digest_acl("op", "word", all=True)])
    client.stop()
    client.close()
    with pytest.raises(SystemExit, match="check the digest"):
        program.start()
    program.source["digest"] = "op:word"
    assert program.start().scheduler.interval == 30


def test_a_large_tree_is_read_whole_and_leaves_no_thread(zookeeper: LocalServer, root: str) -> None:
    client = KazooClient(hosts=zookeeper.hosts)
    client.start(timeout=10)
    for group in range(3):
        client.ensure_path(f"{root}/g{group}")
        transaction = client.transaction()
        for option in range(400):
            transaction.create(f"{root}/g{group}/o{option}", str(option).encode())
        transaction.commit()
    client.stop()
    client.close()
    before = threading.active_count()
    tree = read_tree(SessionSettings(hosts=zookeeper.hosts), root)
    assert threading.active_count() == before
    assert len([name for name in tree if "/" in name]) == 1200
    assert tree["g2/o399"] == b"399"


def test_a_path_that_is_not_there_is_not_found(zookeeper: LocalServer) -> None:
    with pytest.raises(NotFound, match="there is no /engine/absent/config"):
        read_tree(SessionSettings(hosts=zookeeper.hosts), "/engine/absent/config")


def test_the_environment_alone_can_name_the_source(
    program: Program, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("scheduler/interval", "30")
    monkeypatch.setenv("OS_DEFAULT__CONFIG_SOURCE", "cluster")
    for name, value in program.source.items():
        monkeypatch.setenv(f"OS_CLUSTER__{name.upper()}", value)
    conf = cfg.ConfigOpts()
    conf.register_opts(OPTIONS, group="scheduler")
    conf([], default_config_files=[])
    assert conf.scheduler.interval == 30
    assert os.environ["OS_CLUSTER__DRIVER"] == "zookeeper"


def test_what_is_meant_for_one_engine_hides_the_clusters(
    put: Put, root: str, program: Program, zookeeper: LocalServer
) -> None:
    put("scheduler/interval", "5")
    put("scheduler/policy", "packed")
    client = KazooClient(hosts=zookeeper.hosts)
    client.start(timeout=10)
    client.create(f"{root}@engine-2/scheduler/interval", b"7", makepath=True)
    client.stop()
    client.close()
    program.source["engine"] = "engine-2"
    conf = program.start()
    assert (conf.scheduler.interval, conf.scheduler.policy) == (7, "packed")


def test_a_secret_that_is_ciphertext_is_decrypted_with_the_keys(
    put: Put, program: Program, tmp_path: Path
) -> None:
    Secrets.make_key(tmp_path / "keys")
    put("scheduler/pin", f'"{Secrets.from_file(tmp_path / "keys").encrypt("4711")}"')
    program.source["secrets_key_file"] = str(tmp_path / "keys")
    assert program.start().scheduler.pin == 4711
