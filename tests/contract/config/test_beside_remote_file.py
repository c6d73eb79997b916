"""What oslo.config tests of its own driver for remote files, of that and of ours, in the same tests.

The cases are those of oslo_config/tests/test_sources.py (10.7), in their order; where the two differ the test
says so, and docs/configuration.md does. Each program is a real one: files, sources and servers are.
"""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from oslo_config import _list_opts, cfg, sources

from engine.config.driver import OPTS, ZooKeeperDriver, ZooKeeperSource
from engine.coordination.local import LocalServer
from engine.ports import free_port

TYPES: Mapping[str, Mapping[str, tuple[Callable[[str], cfg.Opt], Any]]] = {
    "DEFAULT": {"foo": (cfg.StrOpt, "bar")},
    "test": {
        "opt_str": (cfg.StrOpt, "a nice string"),
        "opt_bool": (cfg.BoolOpt, True),
        "opt_int": (cfg.IntOpt, 42),
        "opt_float": (cfg.FloatOpt, 3.14),
        "opt_ip": (cfg.IPOpt, "127.0.0.1"),
        "opt_port": (cfg.PortOpt, 443),
        "opt_host": (cfg.HostnameOpt, "www.example.org"),
        "opt_uri": (cfg.URIOpt, "https://www.example.org"),
        "opt_multi": (cfg.MultiStrOpt, ["abc", "def", "ghi"]),
    },
}
Values = Mapping[str, Mapping[str, Any]]


class Shelf:
    """Where a driver's values are: `put` them under a name, and `source` is the group that reads them."""

    driver: str

    def put(self, name: str, values: Values) -> None: ...

    def source(self, name: str) -> dict[str, str]:
        raise NotImplementedError


class Web(Shelf):
    driver = "remote_file"

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._port = port

    def put(self, name: str, values: Values) -> None:
        lines: list[str] = []
        for group, options in values.items():
            lines.append(f"[{group}]")
            for option, value in options.items():
                lines += [f"{option} = {one}" for one in (value if isinstance(value, list) else [value])]
        (self._directory / name).write_text("\n".join(lines) + "\n")

    def source(self, name: str) -> dict[str, str]:
        return {"driver": self.driver, "uri": f"http://127.0.0.1:{self._port}/{name}"}


class Tree(Shelf):
    driver = "zookeeper"

    def __init__(self, client: KazooClient, hosts: str, root: str, directory: Path) -> None:
        self._client = client
        self._hosts = hosts
        self._root = root
        self._directory = directory

    def put(self, name: str, values: Values) -> None:
        for group, options in values.items():
            for option, value in options.items():
                items = ", ".join(f'"{one}"' for one in value) if isinstance(value, list) else ""
                data = f"[{items}]" if items else str(value)
                self._client.create(f"{self._root}/{name}/{group}/{option}", data.encode(), makepath=True)

    def source(self, name: str) -> dict[str, str]:
        cache = str(self._directory / f"{name}.cache")
        return {
            "driver": self.driver,
            "hosts": self._hosts,
            "path": f"{self._root}/{name}",
            "cache_file": cache,
            "timeout": "5",
        }


@pytest.fixture(params=["remote_file", "zookeeper"])
def shelf(
    request: pytest.FixtureRequest, tmp_path: Path, zookeeper: LocalServer, root: str
) -> Iterator[Shelf]:
    if request.param == "remote_file":
        (tmp_path / "web").mkdir()
        handler = functools.partial(_Quiet, directory=str(tmp_path / "web"))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        serving = threading.Thread(target=server.serve_forever, name="files for remote_file")
        serving.start()
        yield Web(tmp_path / "web", server.server_address[1])
        server.shutdown()
        serving.join()
        server.server_close()
    else:
        client = KazooClient(hosts=zookeeper.hosts)
        client.start(timeout=10)
        yield Tree(client, zookeeper.hosts, root, tmp_path)
        client.stop()
        client.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


Started = Callable[..., cfg.ConfigOpts]


@pytest.fixture
def started(tmp_path: Path) -> Started:
    """A program of these sources: group to what stands in it."""

    def start(*names: str, groups: Mapping[str, Mapping[str, str]], text: str = "") -> cfg.ConfigOpts:
        file = tmp_path / "program.conf"
        head = f"[DEFAULT]\nconfig_source = {','.join(names)}\n" if names else ""
        body = "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in options.items())
            for group, options in groups.items()
        )
        file.write_text(head + body + text)
        conf = cfg.ConfigOpts()
        for group, options in TYPES.items():
            conf.register_opts([kind(name) for name, (kind, _) in options.items()], _group(group))
        conf.register_opts([cfg.StrOpt(name) for name in ("abc", "def", "ghi")])
        conf([], default_config_files=[str(file)])
        return conf

    return start


def _group(name: str) -> str | None:
    return None if name == "DEFAULT" else name


def opened(conf: cfg.ConfigOpts) -> Sequence[Any]:
    return conf._sources


# --- TestProcessingSources: which sources are opened -----------------------------------------------------


def test_no_source_is_opened_that_is_not_named(shelf: Shelf, started: Started) -> None:
    shelf.put("types", {"DEFAULT": {"foo": "bar"}})
    conf = started(groups={"types": shelf.source("types")})
    assert list(opened(conf)) == []
    assert conf.foo is None


def test_several_sources_are_opened_in_their_order_and_the_first_that_has_an_option_counts(
    shelf: Shelf, started: Started
) -> None:
    shelf.put("ini_1", {"DEFAULT": {"abc": "abc"}})
    shelf.put("ini_2", {"DEFAULT": {"abc": "foo", "def": "def"}})
    shelf.put("ini_3", {"DEFAULT": {"abc": "bar", "def": "bar", "ghi": "ghi"}})
    names = ("ini_1", "ini_2", "ini_3")
    conf = started(*names, groups={name: shelf.source(name) for name in names})
    assert len(opened(conf)) == 3
    assert [conf[name] for name in ("abc", "def", "ghi")] == ["abc", "def", "ghi"]


# --- TestLoading: sources that cannot be ------------------------------------------------------------------


@pytest.mark.parametrize("group", [None, {"not_driver": "foo"}, {"driver": "very_unlikely_to_exist"}])
def test_a_group_that_is_missing_or_names_no_known_driver_is_passed_over(
    group: Mapping[str, str] | None, shelf: Shelf, started: Started
) -> None:
    shelf.put("good", {"DEFAULT": {"foo": "bar"}})
    groups = {"good": shelf.source("good")} | ({"bad": group} if group is not None else {})
    conf = started("bad", "good", groups=groups)
    assert len(opened(conf)) == 1
    assert conf.foo == "bar"


# --- TestEnvironmentConfigurationSource: what goes before a driver ----------------------------------------


def test_the_environment_and_files_go_before_the_source(
    shelf: Shelf, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put("types", {"test": {"opt_int": 42}})
    groups = {"types": shelf.source("types")}
    assert started("types", groups=groups).test.opt_int == 42
    assert started("types", groups=groups, text="[test]\nopt_int = 41\n").test.opt_int == 41
    monkeypatch.setenv("OS_TEST__OPT_INT", "40")
    assert started("types", groups=groups, text="[test]\nopt_int = 41\n").test.opt_int == 40
    assert started("types", groups=groups).test.opt_int == 40


# --- URISourceTestCase: the driver itself -----------------------------------------------------------------


def test_every_type_of_option_is_read_and_one_that_is_not_there_has_no_value(
    shelf: Shelf, started: Started
) -> None:
    given = {group: {name: value for name, (_, value) in each.items()} for group, each in TYPES.items()}
    shelf.put("types", given)
    conf = started("types", groups={"types": shelf.source("types")})
    (source,) = opened(conf)
    assert isinstance(source, ZooKeeperSource) is (shelf.driver == "zookeeper")
    assert source.get("DEFAULT", "bar", cfg.StrOpt("bar"))[0] is sources._NoValue
    assert source.get("nowhere", "bar", cfg.StrOpt("bar"))[0] is sources._NoValue
    for group, options in TYPES.items():
        for name, (kind, value) in options.items():
            found = source.get(group, name, kind(name))[0]
            assert str(found).lower() == str(value).lower(), name
            assert (conf[name] if group == "DEFAULT" else conf[group][name]) == value, name


def test_a_value_that_does_not_fit_is_an_error_when_it_is_used(shelf: Shelf, started: Started) -> None:
    shelf.put("types", {"test": {"opt_int": "many", "opt_str": "fine"}})
    conf = started("types", groups={"types": shelf.source("types")})
    assert conf.test.opt_str == "fine"
    with pytest.raises((ValueError, cfg.ConfigSourceValueError)) as raised:
        _ = conf.test.opt_int
    assert "many" in str(raised.value)
    if shelf.driver == "zookeeper":  # the other one names neither option nor source
        assert "[test] opt_int" in str(raised.value)


def test_a_driver_without_what_it_needs_ends_the_program(shelf: Shelf, started: Started) -> None:
    """Differs in form: ours says which source it is, as with all that keeps it from reading."""
    groups = {"types": {"driver": shelf.driver}}
    with pytest.raises(cfg.RequiredOptError if shelf.driver == "remote_file" else SystemExit) as raised:
        started("types", groups=groups)
    assert ("hosts" if shelf.driver == "zookeeper" else "uri") in str(raised.value)


def test_a_source_that_does_not_answer(shelf: Shelf, started: Started) -> None:
    """Differs on purpose: the other program goes on with its defaults, after a line in the log."""
    away = f"127.0.0.1:{free_port()}"
    groups = {"types": shelf.source("types")}
    if shelf.driver == "remote_file":
        groups["types"]["uri"] = f"http://{away}/types"
        assert list(opened(started("types", groups=groups))) == []
        return
    groups["types"] |= {"hosts": away, "timeout": "0.3"}
    with pytest.raises(SystemExit, match="did not answer"):
        started("types", groups=groups)


def test_a_source_that_answers_that_there_is_nothing(
    shelf: Shelf, started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    """Differs in form: a file that is not there is no source; a tree that is not there yet is an empty one,
    since a new cluster has configured nothing. Both are logged, and the defaults hold."""
    conf = started("types", groups={"types": shelf.source("types")})
    assert conf.foo is None
    assert len(opened(conf)) == (0 if shelf.driver == "remote_file" else 1)
    if shelf.driver == "zookeeper":
        assert "nothing is configured at" in caplog.text


@pytest.mark.parametrize("driver", ["remote_file", "zookeeper"])
def test_the_options_of_the_driver_are_in_generated_samples(driver: str) -> None:
    listed = {group.name: options for group, options in _list_opts.list_opts() if group is not None}
    options = listed[f"sample_{driver}_source"]
    assert options[0].name == "driver"
    if driver == "zookeeper":
        assert ZooKeeperDriver().list_options_for_discovery() == options[1:] == OPTS
