"""Where everything lives in ZooKeeper: the one place that spells a path.

`Paths` is pure. Shards are named by four digits, so that zkCli lists them in order; what a cluster
keeps lies below `/engine/<cluster>` and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import InvalidInput

_FORBIDDEN = frozenset({"", ".", "..", "zookeeper"})


def checked_name(name: str) -> str:
    """`name` if ZooKeeper accepts it as the name of one node, else `InvalidInput`."""
    if name in _FORBIDDEN or "/" in name or any(ord(character) < 32 for character in name):
        raise InvalidInput(
            f"{name!r} cannot be the name of a node", fields={"name": "must be printable, no '/'"}
        )
    return name


@dataclass(frozen=True, slots=True)
class Paths:
    """The tree of one cluster; `cluster` is the name that its engines share."""

    cluster: str

    def __post_init__(self) -> None:
        checked_name(self.cluster)

    @property
    def root(self) -> str:
        return f"/engine/{self.cluster}"

    @property
    def incarnation(self) -> str:
        return f"{self.root}/incarnation"

    @property
    def members(self) -> str:
        return f"{self.root}/members"

    def member(self, engine: str) -> str:
        return f"{self.members}/{checked_name(engine)}"

    @property
    def shards(self) -> str:
        return f"{self.root}/shards"

    def shard(self, shard: int) -> str:
        return f"{self.shards}/{shard:04d}"

    def owner(self, shard: int) -> str:
        return f"{self.shard(shard)}/owner"

    @property
    def inbox(self) -> str:
        return f"{self.root}/inbox"

    def inbox_shard(self, shard: int) -> str:
        return f"{self.inbox}/{shard:04d}"

    @property
    def singletons(self) -> str:
        return f"{self.root}/singletons"

    def singleton(self, name: str) -> str:
        return f"{self.singletons}/{checked_name(name)}"

    @property
    def duties(self) -> str:
        return f"{self.root}/duties"

    def duties_of(self, engine: str) -> str:
        """Where an engine says how its singletons fare."""
        return f"{self.duties}/{checked_name(engine)}"

    @property
    def locks(self) -> str:
        return f"{self.root}/locks"

    def lock(self, key: str) -> str:
        return f"{self.locks}/{key}"

    @property
    def holds(self) -> str:
        return f"{self.root}/holds"

    def hold(self, nonce: str) -> str:
        return f"{self.holds}/{nonce}"

    @property
    def waits(self) -> str:
        return f"{self.root}/waits"

    def line(self, key: str) -> str:
        """Where those wait who want the lock `key`."""
        return f"{self.waits}/{key}"

    @property
    def state(self) -> str:
        return f"{self.root}/state"

    def map(self, name: str) -> str:
        """The root of a clustered map; its keys are the children."""
        return f"{self.state}/{checked_name(name)}"

    @property
    def config(self) -> str:
        return f"{self.root}/config"

    def config_of(self, engine: str) -> str:
        """What is configured for one engine only; it hides what `config` says."""
        return f"{self.root}/config@{checked_name(engine)}"

    @property
    def reload(self) -> str:
        """Set to have every API worker start anew."""
        return f"{self.root}/reload"

    @property
    def config_history(self) -> str:
        return f"{self.root}/config-history"

    @property
    def config_status(self) -> str:
        """How far each process has come with what is configured."""
        return f"{self.root}/config-status"


def parent_of(path: str) -> str:
    """The path of the node above; `/` for a top-level node."""
    return path.rpartition("/")[0] or "/"
