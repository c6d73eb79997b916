"""A process that follows the cluster's configuration, on a real ZooKeeper."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from oslo_config import cfg

from engine.config.catalogue import OptionCatalogue
from engine.config.live import LiveConfiguration, RestartNeeded
from engine.config.shared import SharedConfiguration
from engine.coordination.local import LocalServer
from engine.coordination.session import Session, SessionSettings, open_session
from engine.errors import Conflict, InvalidInput
from engine.ports import free_port
from engine.secrets import Secrets
from tests.contract.config.conftest import Put

OPTIONS = [
    cfg.FloatOpt("tick_seconds", default=3.0, min=0.01, max=60.0, mutable=True),
    cfg.IntOpt("weight", default=1),
    cfg.StrOpt("password", secret=True),
]
DEADLINE_SECONDS = 30.0


def read(files: Sequence[str]) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf.register_opts(OPTIONS, group="hosts")
    conf([], default_config_files=list(files), default_config_dirs=[])
    return conf


Process = Callable[..., LiveConfiguration]


@pytest.fixture
def process(tmp_path: Path) -> Process:
    """A process that has not started yet; its local file says that the weight is 7."""

    def make(name: str = "engine-1", secrets: Secrets | None = None, local: str = "") -> LiveConfiguration:
        file = tmp_path / f"{name}.conf"
        file.write_text(f"[hosts]\nweight = 7\n{local}")
        return LiveConfiguration(
            [str(file)],
            tmp_path / f"{name}.shared",
            catalogue=OptionCatalogue([("hosts", OPTIONS)], per_cluster={"hosts/tick_seconds"}),
            read=read,
            name=name,
            engine=name,
            secrets=secrets,
        )

    return make


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def started(live: LiveConfiguration, settings: SessionSettings) -> LiveConfiguration:
    await asyncio.to_thread(live.start, settings)
    return live


async def test_the_cluster_hides_the_local_file_and_the_environment_hides_the_cluster(
    settings: SessionSettings, put: Put, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("hosts/weight", "3")
    put("hosts/tick_seconds", "2")
    monkeypatch.setenv("OS_HOSTS__TICK_SECONDS", "9")
    conf = (await started(process(), settings)).conf
    assert (conf.hosts.weight, conf.hosts.tick_seconds) == (3, 9.0)


async def test_a_mutable_option_changes_at_once_and_its_hook_is_called(
    session: Session, settings: SessionSettings, process: Process
) -> None:
    live = await started(process(), settings)
    seen: list[float] = []
    live.conf.register_mutate_hook(lambda conf, changed: seen.append(conf.hosts.tick_seconds))
    async with live.following(session):
        await SharedConfiguration(session).change({"hosts/tick_seconds": b"1.0"}, user="")
        await until(lambda: 1.0 in seen)
        assert live.status.pending == ()
        await SharedConfiguration(session).change({"hosts/tick_seconds": None}, user="")
        await until(lambda: seen[-1] == 3.0)


async def test_an_option_that_needs_a_restart_is_told_and_not_applied(
    session: Session, settings: SessionSettings, process: Process
) -> None:
    live = await started(process(), settings)
    async with live.following(session):
        await SharedConfiguration(session).change({"hosts/weight": b"2"}, user="")
        await until(lambda: live.status.pending)
        assert live.status.pending == ("hosts.weight",)
        assert live.conf.hosts.weight == 7
        shared = SharedConfiguration(session)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (await shared.progress())[0]["pending"] != ["hosts.weight"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await shared.change({"hosts/weight": b"7"}, user="")
        await until(lambda: not live.status.pending)
    assert (await started(process(), settings)).conf.hosts.weight == 7


async def test_a_value_broken_by_hand_is_refused_and_the_last_good_one_stays(
    session: Session, settings: SessionSettings, put: Put, process: Process
) -> None:
    put("hosts/tick_seconds", "2")
    live = await started(process(), settings)
    async with live.following(session):
        put("hosts/tick_seconds", "banana")
        await until(lambda: live.status.refused)
        assert "number from 0.01 to 60" in live.status.refused["hosts/tick_seconds"]
        assert live.conf.hosts.tick_seconds == 2.0
        put("hosts/tick_seconds", "4")
        await until(lambda: live.conf.hosts.tick_seconds == 4.0)
        assert not live.status.refused


async def test_what_one_engine_is_told_hides_what_all_are(
    session: Session, settings: SessionSettings, process: Process
) -> None:
    shared = SharedConfiguration(session)
    await shared.change({"hosts/tick_seconds": b"2.0"}, user="")
    await shared.change({"hosts/tick_seconds": b"5.0"}, user="", engine="engine-2")
    first, second = process("engine-1"), process("engine-2")
    assert (await started(first, settings)).conf.hosts.tick_seconds == 2.0
    assert (await started(second, settings)).conf.hosts.tick_seconds == 5.0
    async with second.following(session):
        await shared.change({"hosts/tick_seconds": None}, user="", engine="engine-2")
        await until(lambda: second.conf.hosts.tick_seconds == 2.0)


async def test_a_change_while_zookeeper_was_away_is_applied_when_it_is_back(
    own_zookeeper: LocalServer, cluster_name: str, process: Process
) -> None:
    settings = SessionSettings(
        hosts=own_zookeeper.hosts, cluster=cluster_name, tick_seconds=own_zookeeper.tick_seconds
    )
    live = await started(process(), settings)
    async with open_session(settings) as other:
        async with open_session(settings) as session, live.following(session):
            pass
        await SharedConfiguration(other).change({"hosts/tick_seconds": b"1.0"}, user="")
        async with open_session(settings) as session, live.following(session):
            assert live.conf.hosts.tick_seconds == 1.0


async def test_without_zookeeper_the_last_known_values_serve(
    own_zookeeper: LocalServer, cluster_name: str, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SessionSettings(
        hosts=own_zookeeper.hosts,
        cluster=cluster_name,
        tick_seconds=own_zookeeper.tick_seconds,
        connect_seconds=1.0,
    )
    async with open_session(settings) as session:
        await SharedConfiguration(session).change({"hosts/weight": b"2"}, user="")
        await started(process(), settings)
    own_zookeeper.stop()
    live = await started(process(), settings)
    assert live.conf.hosts.weight == 2
    assert not live.unread
    assert "going on with the cluster's values as they were" in caplog.text


async def test_an_engine_that_knows_nothing_of_the_cluster_does_not_act_on_defaults(
    session: Session, settings: SessionSettings, process: Process
) -> None:
    await SharedConfiguration(session).change({"hosts/weight": b"2"}, user="")
    nobody = SessionSettings(
        hosts=f"127.0.0.1:{free_port()}", cluster=settings.cluster, connect_seconds=0.5, tick_seconds=0.5
    )
    live = await started(process(), nobody)
    assert live.unread
    with pytest.raises(RestartNeeded, match=r"hosts\.weight"):
        async with live.following(session):
            pass
    assert (await started(process(), settings)).conf.hosts.weight == 2


async def test_nothing_known_is_not_taken_for_the_last_known(
    settings: SessionSettings, process: Process
) -> None:
    nobody = SessionSettings(
        hosts=f"127.0.0.1:{free_port()}", cluster=settings.cluster, connect_seconds=0.5, tick_seconds=0.5
    )
    assert (await started(process(), nobody)).unread
    assert (await started(process(), nobody)).unread


async def test_a_file_of_values_that_others_may_write_is_refused(
    settings: SessionSettings, process: Process, tmp_path: Path
) -> None:
    await started(process(), settings)
    os.chmod(tmp_path / "engine-1.shared", 0o666)
    nobody = SessionSettings(
        hosts=f"127.0.0.1:{free_port()}", cluster=settings.cluster, connect_seconds=0.5, tick_seconds=0.5
    )
    with pytest.raises(InvalidInput, match="open to others"):
        await started(process(), nobody)


async def test_a_secret_is_ciphertext_in_zookeeper_and_in_the_file(
    session: Session, settings: SessionSettings, process: Process, tmp_path: Path
) -> None:
    Secrets.make_key(tmp_path / "keys")
    secrets = Secrets.from_file(tmp_path / "keys")
    kept = f'"{secrets.encrypt("hunter2")}"'.encode()
    await SharedConfiguration(session).change({"hosts/password": kept}, user="")
    live = await started(process(secrets=secrets), settings)
    assert live.conf.hosts.password == "hunter2"
    assert "hunter2" not in (tmp_path / "engine-1.shared").read_text()
    async with live.following(session):
        assert live.status.pending == ()
    with pytest.raises(Conflict, match="there is no key"):
        await started(process("engine-2"), settings)


async def test_what_is_set_for_the_hosts_of_one_cluster_is_live_and_survives_a_start_without_zookeeper(
    session: Session, settings: SessionSettings, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SharedConfiguration(session)
    await shared.change({"hosts@paris/tick_seconds": b"2.0"}, user="")
    live = await started(process(), settings)
    assert live.overrides("hosts") == {"paris": {"tick_seconds": 2.0}}
    seen: list[object] = []
    live.conf.register_mutate_hook(lambda _conf, changed: seen.append(set(changed)))
    async with live.following(session):
        await shared.change({"hosts@paris/tick_seconds": b"1.0", "hosts@rome/tick_seconds": b"5.0"}, user="")
        await until(lambda: len(live.overrides("hosts")) == 2)
        assert live.overrides("hosts") == {"paris": {"tick_seconds": 1.0}, "rome": {"tick_seconds": 5.0}}
        assert live.conf.hosts.tick_seconds == 3.0
        assert {("hosts@paris", "tick_seconds"), ("hosts@rome", "tick_seconds")} in seen
        await shared.change({"hosts@paris/tick_seconds": None}, user="")
        await until(lambda: "paris" not in live.overrides("hosts"))
        assert live.status.pending == ()
    nobody = SessionSettings(
        hosts=f"127.0.0.1:{free_port()}", cluster=settings.cluster, connect_seconds=0.5, tick_seconds=0.5
    )
    assert (await started(process(), nobody)).overrides("hosts") == {"rome": {"tick_seconds": 5.0}}
    monkeypatch.setenv("OS_HOSTS__TICK_SECONDS", "9")
    assert (await started(process(), settings)).overrides("hosts") == {}


async def test_what_is_broken_by_hand_for_one_cluster_of_hosts_is_refused(
    session: Session, settings: SessionSettings, put: Put, process: Process
) -> None:
    live = await started(process(), settings)
    async with live.following(session):
        put("hosts@paris/tick_seconds", "2")
        await until(lambda: live.overrides("hosts"))
        put("hosts@paris/tick_seconds", "banana")
        put("hosts@paris/weight", "2")
        await until(lambda: len(live.status.refused) == 2)
        assert "number from 0.01 to 60" in live.status.refused["hosts@paris/tick_seconds"]
        assert "the same for all hosts" in live.status.refused["hosts@paris/weight"]
        assert live.overrides("hosts") == {"paris": {"tick_seconds": 2.0}}
