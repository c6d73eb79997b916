"""The cluster's values in one process of ours: read before its first line of work, then kept current.

They are rendered into a file that stands last among the configuration files. A change in ZooKeeper is
rendered again and told to oslo.config, whose mutate hooks apply what is mutable at once; the rest is
`pending` until the process starts again. A value that does not fit leaves the last good one in force and is
told. With ZooKeeper away at the start the file of the last run serves, with a warning that tells its age;
without one nothing may be acted on before the values are known (`unread`). Never a silent default.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import stat
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import orjson
from oslo_config import cfg

from engine.clock import utcnow
from engine.config.catalogue import Declared, OptionCatalogue
from engine.config.driver import age
from engine.config.files import replace
from engine.config.rendering import render
from engine.coordination.paths import Paths
from engine.coordination.replica import Replica
from engine.coordination.session import Session
from engine.coordination.settings import SessionSettings
from engine.coordination.snapshot import read_tree
from engine.errors import EngineError, InvalidInput, NotFound, Unavailable
from engine.secrets import Secrets, is_encrypted

LOG = logging.getLogger(__name__)

GATHER_SECONDS = 0.02
"""A change of many options is one transaction, but its nodes are read as events come."""
MOST_TOLD = 50
_OF_HOST_CLUSTER = re.compile(r"^\[(\S+@\S+)\]$", re.MULTILINE)
_NOTHING_KNOWN = "# nothing is known of what the cluster sets"


class RestartNeeded(EngineError):
    """This process runs with other values than the cluster's, and may not act with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationStatus:
    """How far this process has come. `pending`: options that wait for a restart; `refused`: key to reason."""

    at: datetime
    pending: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    def node(self) -> bytes:
        return orjson.dumps(
            {
                "at": self.at.isoformat(timespec="milliseconds"),
                "pending": self.pending[:MOST_TOLD],
                "refused": dict(sorted(self.refused.items())[:MOST_TOLD]),
            }
        )


Reader = Callable[[Sequence[str]], cfg.ConfigOpts]
"""Reads configuration files into options, all of ours registered."""


class LiveConfiguration:
    """Of one process; `name` is the engine's, or of an API process, and `engine` whose own values count."""

    def __init__(
        self,
        files: Sequence[str],
        rendered: Path,
        *,
        catalogue: OptionCatalogue,
        read: Reader,
        name: str,
        engine: str | None = None,
        secrets: Secrets | None = None,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self._files = [*files, str(rendered)]
        self._rendered = rendered
        self._catalogue = catalogue
        self._read = read
        self._name = name
        self._engine = engine
        self._secrets = secrets or Secrets()
        self._now = now
        self._accepted: Mapping[str, bytes] = {}
        self._sections: set[str] = set()
        self._known = False
        self._changed = asyncio.Event()
        self.status = ConfigurationStatus(at=now())
        self.unread = False
        self.conf: cfg.ConfigOpts

    def start(self, settings: SessionSettings) -> cfg.ConfigOpts:
        """Read the cluster's values, or the last known, and then all options. Blocks, before any loop.

        Raises oslo.config's errors, `InvalidInput` where ZooKeeper refuses us.
        """
        try:
            nodes = self._of_cluster(settings)
        except Unavailable as error:
            self._use_last_known(error)
        else:
            self._render(nodes)
        self.conf = self._read(self._files)
        self._decrypt(self.conf)
        self._learn_host_clusters()
        return self.conf

    def overrides(self, group: str) -> dict[str, dict[str, object]]:
        """What is set of a group for the hosts of one host cluster: by its id, then by option. What this
        machine's environment says of an option hides it."""
        conf = self.conf
        found: dict[str, dict[str, object]] = {}
        for section in self._sections:
            base, _, cluster = section.partition("@")
            if base != group:
                continue
            for name in self._catalogue.per_cluster(group):
                place = conf.get_location(name, group)
                by_environment = place is not None and place.location is cfg.Locations.environment
                if (value := conf[section][name]) is not None and not by_environment:
                    found.setdefault(cluster, {})[name] = value
        return found

    def _learn_host_clusters(self) -> None:
        """Register the options of each section that is for the hosts of one host cluster; for good, since
        what is not set there has no value."""
        self._sections.update(_OF_HOST_CLUSTER.findall(self._rendered.read_text()))
        for section in self._sections:
            base = section.partition("@")[0]
            for name in self._catalogue.per_cluster(base):
                declared = self._catalogue.get(f"{section}/{name}")
                assert declared is not None
                self.conf.register_opt(declared.option, section)

    def _decrypt(self, conf: cfg.ConfigOpts) -> None:
        """In the file stands ciphertext, in memory what it says. Raises `Conflict` where no key fits."""
        for declared in self._catalogue:
            if declared.secret and declared.key in self._accepted:
                conf.register_opt(declared.option, declared.group)
                kept = _value(conf, declared)
                if isinstance(kept, str) and is_encrypted(kept):
                    conf.set_override(declared.option.dest, self._secrets.decrypt(kept), declared.group)

    async def refused_other_than(self, told: Mapping[str, str]) -> Mapping[str, str]:
        """What is refused, as soon as that is not `told`."""
        while self.status.refused == told:
            self._changed.clear()
            await self._changed.wait()
        return self.status.refused

    @contextlib.asynccontextmanager
    async def following(self, session: Session) -> AsyncIterator[None]:
        """Keep current while the body runs; what is configured at the beginning has been applied.

        Raises `RestartNeeded` when an engine was started without the cluster's values and they matter.
        """
        paths = session.paths
        roots = [paths.config] + ([paths.config_of(self._engine)] if self._engine else [])
        await session.ensure(paths.config_status)
        for root in roots:
            await session.ensure(root)
        changed = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            replicas = [await stack.enter_async_context(session.replica(root)) for root in roots]
            self._apply(replicas)
            if self._engine and self.unread and self.status.pending:
                raise RestartNeeded(
                    "started without the cluster's configuration, which differs: "
                    + ", ".join(self.status.pending[:5])
                )
            self.unread = False
            for replica in replicas:
                stack.callback(replica.subscribe(lambda _: changed.set()))
            path = f"{paths.config_status}/{self._name}"
            await session.create_mine(path, self.status.node())
            session.background(self._follow(session, replicas, changed, path), name="configuration")
            yield

    async def _follow(
        self, session: Session, replicas: Sequence[Replica], changed: asyncio.Event, path: str
    ) -> None:
        told = self.status.node()
        while True:
            await changed.wait()
            await asyncio.sleep(GATHER_SECONDS)
            changed.clear()
            self._apply(replicas)
            while told != (status := self.status.node()):
                try:
                    await session.set(path, status)
                except Unavailable:
                    await session.wait_connected(session.identity.timeout_seconds)
                else:
                    told = status

    def _apply(self, replicas: Sequence[Replica]) -> None:
        nodes = {
            key: node.data
            for replica in replicas
            for key, node in replica.nodes.items()
            if key.count("/") == 1
        }
        before, refused_before = self._accepted, self.status.refused
        refused = self._render(nodes)
        for key in sorted(refused.keys() - refused_before.keys()):
            LOG.error("configuration %s is refused: %s", key.replace("/", "."), refused[key])
        if self._accepted != before or not self._known:
            self._known = True
            self._learn_host_clusters()
            self.conf.mutate_config_files()
            self._set_status(self._pending(), refused)
        elif refused != refused_before:
            self._set_status(self.status.pending, refused)

    def _set_status(self, pending: Sequence[str], refused: Mapping[str, str]) -> None:
        self.status = ConfigurationStatus(at=self._now(), pending=tuple(pending), refused=refused)
        self._changed.set()

    def _pending(self) -> list[str]:
        """Options whose value in the files is another than the one in force."""
        fresh = self._read(self._files)
        self._decrypt(fresh)
        pending = []
        for declared in self._catalogue:
            try:
                running = _value(self.conf, declared)
            except cfg.NoSuchOptError:  # of a plugin that does not run here
                continue
            fresh.register_opt(declared.option, declared.group)
            if not declared.local and _value(fresh, declared) != running:
                pending.append(declared.name)
        return pending

    def _render(self, nodes: Mapping[str, bytes]) -> Mapping[str, str]:
        note = f"what the cluster sets, as of {self._now().isoformat(timespec='seconds')}; made by the engine"
        rendered = render(nodes, self._catalogue, before=self._accepted, note=note)
        if rendered.accepted != self._accepted or not self._rendered.exists():
            replace(self._rendered, rendered.text, durable=False)
        self._accepted = rendered.accepted
        return rendered.refused

    def _of_cluster(self, settings: SessionSettings) -> dict[str, bytes]:
        paths = Paths(settings.cluster)
        nodes: dict[str, bytes] = {}
        for root in [paths.config] + ([paths.config_of(self._engine)] if self._engine else []):
            try:
                found = read_tree(settings, root)
            except NotFound:
                continue
            nodes |= {key: data for key, data in found.items() if key.count("/") == 1}
        return nodes

    def _use_last_known(self, error: Unavailable) -> None:
        if not self._rendered.exists() or self._rendered.read_text().strip() == _NOTHING_KNOWN:
            LOG.warning("%s, and no values of the cluster are known from before: waiting for them", error)
            self.unread = True
            replace(self._rendered, _NOTHING_KNOWN + "\n", durable=False)
            return
        status = self._rendered.stat()
        if status.st_uid not in (os.geteuid(), 0) or stat.S_IMODE(status.st_mode) & 0o077:
            raise InvalidInput(f"{self._rendered} is open to others; it should be ours alone, mode 0600")
        written = datetime.fromtimestamp(status.st_mtime, UTC)
        LOG.warning(
            "%s; going on with the cluster's values as they were %s ago (%s)",
            error,
            age(self._now() - written),
            self._rendered,
        )


def _value(conf: cfg.ConfigOpts, declared: Declared) -> object:
    """Raises `cfg.NoSuchOptError` where it is not registered."""
    name = declared.option.dest
    return conf[name] if declared.group == "DEFAULT" else conf[declared.group][name]
