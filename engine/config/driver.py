"""The cluster's configuration as a source of any oslo.config program: the driver `zookeeper`.

    [DEFAULT]
    config_source = cluster
    [cluster]
    driver = zookeeper
    hosts = zk1:2181,zk2:2181,zk3:2181

Read once, when the program calls its ConfigOpts: the option `interval` of `[scheduler]` is the node
/engine/<cluster>/config/scheduler/interval, JSON or plain text. Precedence is oslo.config's own
(measured with 10.7, held by a contract test): set_override, command line, environment (OS_<GROUP>__<OPTION>),
configuration files, sources in the order of `config_source`, set_default, default. So any value in a
file hides the cluster's. One oddity is oslo.config's: an option that stands on the command line *and*
in a file counts as from the file, so there the environment wins over the command line.

ZooKeeper away: the last known values, from a private cache file, with a warning that tells their age.
Neither: the program ends with the reason. oslo.config swallows an `Exception` of a driver, logs a line
and goes on with defaults; a silent default is what must never happen, hence `SystemExit`.

With `engine`, what /config@<engine>/ says for that one engine is laid over it. Our own processes do not
use this driver but `live.py`, where the cluster hides local files and changes take effect.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from oslo_config import cfg, sources

from engine.clock import utcnow
from engine.config import cache, values
from engine.config.cache import CachedValues, CacheUnusable
from engine.coordination import options as coordination
from engine.coordination.paths import Paths
from engine.coordination.settings import SessionSettings
from engine.coordination.snapshot import read_tree
from engine.errors import Conflict, EngineError, InvalidInput, NotFound, Unavailable
from engine.secrets import Secrets

LOG = logging.getLogger(__name__)

_TLS = [option for option in coordination.OPTS if option.name.startswith("tls")]

OPTS: list[cfg.Opt] = [
    cfg.StrOpt(
        "hosts",
        required=True,
        sample_default="zk1:2181,zk2:2181,zk3:2181",
        help="ZooKeeper servers, `host:port` separated by commas.",
    ),
    cfg.StrOpt("cluster", default="default", help="Name of the cluster of engines whose values are read."),
    cfg.StrOpt("path", help="Node below which the groups are; without it /engine/<cluster>/config."),
    cfg.StrOpt("engine", help="Name of an engine whose own values (/config@<engine>) hide the cluster's."),
    cfg.FloatOpt(
        "timeout",
        default=10.0,
        min=0.1,
        max=120.0,
        help="How long ZooKeeper may take to answer at the start of the program, in seconds. After that the"
        " last known values are used.",
    ),
    *_TLS,
    cfg.StrOpt("digest", secret=True, help="`user:password` for ZooKeeper's digest authentication."),
    cfg.StrOpt(
        "secrets_key_file",
        help="Keys, one a line, under which the cluster's secrets are encrypted; needed to read those.",
    ),
    cfg.StrOpt(
        "cache_file",
        help="Where the last known values are kept (mode 0600). Without it a file in $CACHE_DIRECTORY,"
        " $XDG_CACHE_HOME/engine or ~/.cache/engine, whichever is set first.",
    ),
]


class ZooKeeperDriver(sources.ConfigurationSourceDriver):
    """Entry point `zookeeper` of `oslo.config.driver`."""

    def list_options_for_discovery(self) -> list[Any]:
        return OPTS

    def open_source_from_opt_group(
        self, conf: cfg.ConfigOpts, group_name: str
    ) -> sources.ConfigurationSource:
        try:
            conf.register_opts(OPTS, group_name)
            return _open(conf[group_name], os.environ)
        except (EngineError, ValueError) as error:
            raise SystemExit(f"configuration source [{group_name}]: {error}") from error


class ZooKeeperSource(sources.ConfigurationSource):
    """The values as they were read. `root` is the node they come from, for messages."""

    def __init__(self, root: str, nodes: Mapping[str, bytes], secrets: Secrets | None = None) -> None:
        self._root = root
        self._nodes = nodes
        self._secrets = secrets or Secrets()

    def get(
        self, group_name: str | None, option_name: str, opt: cfg.Opt
    ) -> tuple[Any, cfg.LocationInfo | None]:
        group = group_name or "DEFAULT"
        for key in (
            f"{group}/{option_name}",
            f"{group}/{opt.name}",
        ):  # `a_b`, and `a-b` as it may be declared
            if key in self._nodes:
                return self._value(f"{self._root}/{key}", self._nodes[key], f"[{group}] {option_name}", opt)
        return sources._NoValue, None

    def _value(self, node: str, data: bytes, option: str, opt: cfg.Opt) -> tuple[Any, cfg.LocationInfo]:
        try:
            value = values.decode(data, opt)
            if opt.secret and isinstance(value, str):
                value = self._secrets.decrypt(value)
            values.check(value, opt)
        except Conflict as error:  # oslo.config would go on with the default
            raise SystemExit(f"option {option} from ZooKeeper node {node}: {error}") from error
        except ValueError as error:
            # oslo.config converts what drivers return without naming option or source in its error
            reason = "the value (not shown) does not fit" if opt.secret else str(error)
            raise cfg.ConfigSourceValueError(
                f"Value for option {option} from ZooKeeper node {node} is not valid: {reason}"
            ) from None
        return value, cfg.LocationInfo(cfg.Locations.user, f"ZooKeeper node {node}")


def _open(options: cfg.ConfigOpts.GroupAttr, environment: Mapping[str, str]) -> ZooKeeperSource:
    if not options.hosts:
        raise InvalidInput("hosts is not set", fields={"hosts": "must name the ZooKeeper servers"})
    root = (options.path or Paths(options.cluster).config).rstrip("/")
    source = f"{options.hosts}{root}" + (f"@{options.engine}" if options.engine else "")
    file = Path(options.cache_file) if options.cache_file else cache.default_file(source, environment)
    secrets = Secrets.given(options.secrets_key_file)
    try:
        nodes = _read(options, root, source)
    except Unavailable as error:
        cached = _last_known(file, source, error)
        return ZooKeeperSource(root, cached.values, secrets)
    _remember(file, CachedValues(source, utcnow(), nodes))
    return ZooKeeperSource(root, nodes, secrets)


def _read(options: cfg.ConfigOpts.GroupAttr, root: str, source: str) -> dict[str, bytes]:
    settings = _settings(options)
    try:
        nodes = read_tree(settings, root)
    except NotFound:
        LOG.warning("nothing is configured at %s: there is no such node", source)
        nodes = {}
    if options.engine:
        with contextlib.suppress(NotFound):
            nodes |= read_tree(settings, f"{root}@{options.engine}")
    return nodes


def _settings(options: cfg.ConfigOpts.GroupAttr) -> SessionSettings:
    return SessionSettings(
        hosts=options.hosts,
        cluster=options.cluster,
        connect_seconds=options.timeout,
        tls=coordination.tls_settings(options),
        digest=options.digest,
    )


def _last_known(file: Path | None, source: str, error: Unavailable) -> CachedValues:
    if file is None:
        raise CacheUnusable(f"{error}, and there is no place for a cached copy: set cache_file or HOME")
    try:
        cached = cache.load(file, source)
    except CacheUnusable as unusable:
        raise CacheUnusable(f"{error}, and {unusable}") from error
    LOG.warning(
        "%s; going on with the values of %s as they were %s ago (%s, from %s)",
        error,
        source,
        age(utcnow() - cached.read_at),
        cached.read_at.isoformat(timespec="seconds"),
        file,
    )
    return cached


def _remember(file: Path | None, cached: CachedValues) -> None:
    if file is None:
        LOG.warning("the values of %s are not cached: neither cache_file nor HOME is set", cached.source)
        return
    try:
        cache.save(file, cached)
    except OSError as error:
        LOG.warning("the values of %s could not be cached in %s: %s", cached.source, file, error.strerror)


def age(passed: timedelta) -> str:
    """`3 d 4 h`, `5 h 10 min`, `12 min`, `8 s`: the two largest units."""
    seconds = max(0, int(passed.total_seconds()))
    parts = [
        (seconds // 86400, "d"),
        (seconds // 3600 % 24, "h"),
        (seconds // 60 % 60, "min"),
        (seconds % 60, "s"),
    ]
    shown = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(shown[:2]) or "0 s"
