"""The contract: all that a plugin may import from the engine.

A plugin is a class named by an entry point. Host drivers (`engine.drivers`) carry the engine's
calls to an agent; singletons (`engine.singletons`) run where leadership is; partitioners
(`engine.partitioners`) say which shards a member should own; commands (`engine.commands`) are what
users ask for, and outlive the engine that runs them. Contracts are small ABCs; the suites in
`engine.testing` hold every implementation to them. Nothing here does I/O.
"""

from __future__ import annotations

import asyncio
import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, NewType, Protocol

from engine.arguments import (
    argument,
    boolean,
    choice,
    identifier,
    integer,
    listing,
    mapping,
    text,
)
from engine.errors import (
    AuthorityLost,
    Conflict,
    EngineError,
    Fenced,
    HostRefused,
    HostUnreachable,
    InvalidInput,
    NoSuchVm,
    NotFound,
    OutcomeUnknown,
    Unavailable,
    VmExists,
)

__all__ = [
    "CONTRACT_VERSION",
    "Authority",
    "AuthorityLost",
    "ClusterId",
    "ClusterView",
    "Conflict",
    "EngineError",
    "EngineId",
    "Entity",
    "EventLog",
    "FenceAgent",
    "Fenced",
    "GoBack",
    "Happened",
    "HostCapabilities",
    "HostConnection",
    "HostDriver",
    "HostEvent",
    "HostId",
    "HostRefused",
    "HostStatistics",
    "HostTarget",
    "HostUnreachable",
    "InvalidInput",
    "Json",
    "Leadership",
    "LockKeys",
    "MemberView",
    "NoSuchVm",
    "NotFound",
    "OutcomeUnknown",
    "PartitionState",
    "Partitioner",
    "PluginContext",
    "PowerAction",
    "PowerState",
    "Probed",
    "Rows",
    "Scope",
    "ShardId",
    "ShardView",
    "Singleton",
    "Step",
    "StepContext",
    "Unavailable",
    "VmDefinition",
    "VmExists",
    "VmId",
    "VmReport",
    "argument",
    "boolean",
    "choice",
    "identifier",
    "integer",
    "listing",
    "mapping",
    "text",
]

CONTRACT_VERSION = 1
"""Grows when a plugin written for the number before would no longer work."""

UNSUPPORTED_CODE = -32601
"""What a `HostRefused` bears when the driver, rather than the agent, cannot do what was asked."""

EngineId = NewType("EngineId", str)
HostId = NewType("HostId", str)
VmId = NewType("VmId", str)
ClusterId = NewType("ClusterId", str)
"""Of a host cluster."""
ShardId = NewType("ShardId", int)


class Authority(Protocol):
    """The right to act, until a deadline on CLOCK_BOOTTIME.

    Every side effect is preceded by `check()`, with no await between the two.
    """

    def check(self) -> None:
        """Return if acting is allowed at this instant; else raise `AuthorityLost`."""

    def remaining_seconds(self) -> float:
        """Seconds of authority left if no renewal is answered; 0 or less once it is over."""


# --- host drivers -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostTarget:
    """Where a host is, and in whose name and under which epoch it is called.

    `epoch` is that of the shard that owns the host (`incarnation << 32 | version`).
    """

    host_id: HostId
    address: str
    port: int
    engine: EngineId
    epoch: int


@dataclass(frozen=True, slots=True)
class HostCapabilities:
    """What a host can do; asked for on activation and when its devices change."""

    cpu_cores: int
    memory_bytes: int
    cluster_levels: tuple[str, ...]
    agent_version: str
    uuid: str
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """How a host fares now. `cpu_load_percent` is 0..100 over all cores."""

    vm_count: int
    vm_active: int
    vm_migrating: int
    memory_free_bytes: int
    cpu_load_percent: float
    raw: Mapping[str, Any] = field(repr=False)


class VmStatus(enum.StrEnum):
    """What a VM does, as far as is known; the value is the word of the API and of the database."""

    DOWN = "down"
    WAIT_FOR_LAUNCH = "wait_for_launch"
    POWERING_UP = "powering_up"
    UP = "up"
    PAUSED = "paused"
    POWERING_DOWN = "powering_down"
    REBOOT_IN_PROGRESS = "reboot_in_progress"
    MIGRATING = "migrating"
    SAVING_STATE = "saving_state"
    RESTORING_STATE = "restoring_state"
    UNKNOWN = "unknown"


_VM_WORDS = {
    "WaitForLaunch": VmStatus.WAIT_FOR_LAUNCH,
    "Powering up": VmStatus.POWERING_UP,
    "Up": VmStatus.UP,
    "Paused": VmStatus.PAUSED,
    "Powering down": VmStatus.POWERING_DOWN,
    "RebootInProgress": VmStatus.REBOOT_IN_PROGRESS,
    "Migration Source": VmStatus.MIGRATING,
    "Migration Destination": VmStatus.MIGRATING,
    "Saving State": VmStatus.SAVING_STATE,
    "Restoring state": VmStatus.RESTORING_STATE,
    "Down": VmStatus.DOWN,
}
_MIGRATION_SUCCEEDED = 4


@dataclass(frozen=True, slots=True)
class VmReport:
    """One VM as its host reports it, in VDSM's words, into which other drivers translate theirs."""

    vm_id: VmId
    status: str
    exit_code: int | None = None
    exit_reason: int | None = None
    exit_message: str = ""

    @property
    def meaning(self) -> VmStatus:
        """What the word means; one that we do not know is `unknown`, not an error."""
        return _VM_WORDS.get(self.status, VmStatus.UNKNOWN)

    @property
    def migrated(self) -> bool:
        """Whether the VM is down here because it now runs at its destination."""
        return self.meaning is VmStatus.DOWN and self.exit_reason == _MIGRATION_SUCCEEDED


@dataclass(frozen=True, slots=True)
class HostEvent:
    """Something a host said unasked: `kind` is 'vm_status', 'network' or the agent's own word.

    `notify_seconds` is the host's monotonic clock when it spoke; it orders events against reports
    of the same host and means nothing elsewhere.
    """

    kind: str
    subject: str
    params: Mapping[str, Any]
    notify_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDefinition:
    """What a host needs in order to run a VM; the driver puts it into its agent's words."""

    vm_id: VmId
    name: str
    memory_bytes: int
    cpus: int


class PowerAction(enum.StrEnum):
    """What a fence agent is asked for."""

    ON = "on"
    OFF = "off"
    REBOOT = "reboot"
    STATUS = "status"


class PowerState(enum.StrEnum):
    """What a fence agent answers. Only `off` to `status` proves that a host is off."""

    ON = "on"
    OFF = "off"
    INITIATED = "initiated"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceAgent:
    """How the power of a host is reached, by way of another host."""

    kind: str
    address: str
    port: int
    username: str
    password: str = field(repr=False)
    options: str = ""


class HostConnection(ABC):
    """One live connection to a host. Every call has a deadline and checks authority just before
    its single write; what stays buffered past that aborts the connection.

    Raises `HostUnreachable` (path broken), `OutcomeUnknown` (broken or timed out after the request
    was sent), `HostRefused` (the agent said no), `AuthorityLost`.
    """

    @property
    @abstractmethod
    def lost(self) -> asyncio.Event:
        """Set once the connection can carry no more calls."""

    @abstractmethod
    async def capabilities(self) -> HostCapabilities: ...

    @abstractmethod
    async def statistics(self) -> HostStatistics: ...

    @abstractmethod
    async def vms(self) -> tuple[VmReport, ...]: ...

    # What a driver's agents cannot do, it leaves out: then the call is refused.

    async def vm(self, vm_id: VmId) -> VmReport | None:
        """One VM as the host has it; None when the host answers that it has none of this id."""
        return next((vm for vm in await self.vms() if vm.vm_id == vm_id), None)

    async def create_vm(self, vm: VmDefinition, *, operation_id: str) -> None:
        """Start a VM. Raises `VmExists` when the host has it already, running or not."""
        raise _unsupported("create_vm")

    async def destroy_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        """Power a VM off at once, or forget one that is down. Raises `NoSuchVm`."""
        raise _unsupported("destroy_vm")

    async def shutdown_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        """Ask the guest to shut down. Raises `NoSuchVm`."""
        raise _unsupported("shutdown_vm")

    async def reboot_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        """Ask the guest to restart. Raises `NoSuchVm`."""
        raise _unsupported("reboot_vm")

    async def pause_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        """Raises `NoSuchVm`."""
        raise _unsupported("pause_vm")

    async def resume_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        """Raises `NoSuchVm`."""
        raise _unsupported("resume_vm")

    async def migrate_vm(self, vm_id: VmId, *, address: str, port: int, operation_id: str) -> None:
        """Begin to move a VM to the host whose agent listens there. Raises `NoSuchVm`."""
        raise _unsupported("migrate_vm")

    async def cancel_migration(self, vm_id: VmId, *, operation_id: str) -> None:
        """Have a VM that is on its way stay here. Raises `NoSuchVm`."""
        raise _unsupported("cancel_migration")

    async def migration_percent(self, vm_id: VmId) -> int:
        """How far a VM's migration from here has come, 0..100. Raises `NoSuchVm`."""
        raise _unsupported("migration_percent")

    async def fence_node(self, agent: FenceAgent, action: PowerAction, *, operation_id: str) -> PowerState:
        """Have this host, as a proxy, reach the power of another one."""
        raise _unsupported("fence_node")

    @abstractmethod
    async def close(self) -> None:
        """Close at once, without lingering; outstanding calls raise `OutcomeUnknown`. Idempotent."""


def _unsupported(verb: str) -> HostRefused:
    return HostRefused(UNSUPPORTED_CODE, f"the driver of this host has no {verb}")


class HostDriver(ABC):
    """Opens connections to hosts of one kind. One instance an engine; entry point `engine.drivers`."""

    contract: ClassVar[int] = CONTRACT_VERSION
    options: ClassVar[Sequence[Any]] = ()
    """oslo.config options, registered under `[driver_<name>]`; read values arrive in `__init__`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """`values`: option name to value. Raises `InvalidInput` when they do not fit together."""

    @abstractmethod
    async def connect(
        self,
        target: HostTarget,
        *,
        authority: Authority,
        on_event: Callable[[HostEvent], None],
    ) -> HostConnection:
        """Connect and subscribe to events. Raises `HostUnreachable` within the driver's deadline.

        `on_event` is called in the loop, in order of arrival, and must not block.
        """

    async def close(self) -> None:
        """Free what the driver itself holds (executors, TLS contexts). Connections are closed first."""
        return None


# --- leadership and singletons ------------------------------------------------------------------


class Scope(enum.Enum):
    """Where a singleton runs."""

    CLUSTER = "cluster"
    ENGINE = "engine"
    SHARD = "shard"


class Leadership(Authority, Protocol):
    """What a singleton holds while it leads. `run` is cancelled at its await when this ends."""

    @property
    def token(self) -> int:
        """Grows with each later leader; store it with what you write."""

    def every(self, seconds: float) -> AsyncIterator[int]:
        """Yield 0, 1, 2, ...: at once, then each `seconds` (fixed rate, missed beats are skipped)."""


class EventLog(Protocol):
    """The cluster's event rows, as a plugin may use them."""

    async def record(self, kind: str, message: str, **data: object) -> None: ...

    async def prune(self, *, older_than: datetime, limit: int, leadership: Leadership) -> int:
        """Delete up to `limit` events written before `older_than`; return how many went.

        Guarded by the leadership: raises `Fenced` when a later leader was here.
        """


@dataclass(frozen=True, slots=True)
class PluginContext:
    """What a singleton is built with. `options` holds the values of its declared options."""

    engine: EngineId
    options: Mapping[str, Any]
    events: EventLog
    now: Callable[[], datetime]


class Singleton(ABC):
    """A recurring duty. Entry point `engine.singletons`; the entry point's name is the duty's name."""

    contract: ClassVar[int] = CONTRACT_VERSION
    scope: ClassVar[Scope] = Scope.CLUSTER
    options: ClassVar[Sequence[Any]] = ()
    """oslo.config options, registered under `[singleton_<name>]`."""

    def __init__(self, context: PluginContext) -> None:
        self.context = context

    @abstractmethod
    async def run(self, leadership: Leadership) -> None:
        """Do the duty until cancelled. Returning or raising is a fault: it is logged and retried."""


# --- partitioners -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member as everybody sees it. A draining member is assigned nothing."""

    engine: EngineId
    weight: int
    draining: bool
    algorithm: int


@dataclass(frozen=True, slots=True)
class ShardView:
    """One shard: the node's version (low half of its epoch), its last owner, and who holds it now.

    `free_for_seconds` is 0 while it is owned.
    """

    shard: ShardId
    version: int
    last_owner: EngineId | None
    owner: EngineId | None
    free_for_seconds: float


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Members and shards at one moment: the only input of an assignment."""

    members: tuple[MemberView, ...]
    shards: tuple[ShardView, ...]


class PartitionState(enum.Enum):
    """kazoo's SetPartitioner states, the words of our contract too."""

    ALLOCATING = "ALLOCATING"
    ACQUIRED = "ACQUIRED"
    RELEASE = "RELEASE"
    FAILURE = "FAILURE"


class Partitioner(ABC):
    """Says which shards this member should own. Entry point `engine.partitioners`.

    It only wants; `engine.sharding.ownership` takes and releases, with epochs. Two members that
    want one shard do no harm: the node's transaction decides.
    """

    contract: ClassVar[int] = CONTRACT_VERSION

    @property
    @abstractmethod
    def state(self) -> PartitionState: ...

    @abstractmethod
    def wants(self, view: ClusterView) -> frozenset[ShardId]:
        """The shards that this member should hold, given what it sees. Quick, no I/O."""

    @abstractmethod
    def released(self) -> None:
        """Ownership has let go of everything that `wants` no longer named."""

    @property
    @abstractmethod
    def changed(self) -> asyncio.Event:
        """Set by the partitioner when `wants` should be asked again though the view is the same."""

    @abstractmethod
    async def close(self) -> None: ...


# --- commands -----------------------------------------------------------------------------------

Json = Mapping[str, Any]
"""What a step's result is: an object that JSON can carry. Keep it small; later steps read it."""


@dataclass(frozen=True, slots=True)
class Entity:
    """What a command is about: the kind is a table's name ('host', 'vm', 'host_cluster')."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class LockKeys:
    """Keys `<type>:<id>` that a command holds from submission to its end, over any crash."""

    exclusive: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Child:
    """A command to be run beneath another: `command` is its entry point's name.

    It acts under its root's locks. Keys of its own that the root lacks are waited for up to
    `lock_wait_seconds`; then the child fails.
    """

    command: str
    arguments: Json
    lock_wait_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """How a child ended: `state` is 'succeeded', 'failed', 'compensated' or 'cancelled'."""

    id: str
    command: str
    arguments: Json
    state: str
    error: str = ""

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"


class Rows(Protocol):
    """Entities inside one open transaction that is already guarded: by the shard's epoch, by the
    command's row and its lock. It commits when the step's method returns, together with the step.

    Rows are plain mappings, column to value, of the tables marked as entities in `engine.db.tables`.
    No I/O but this may be done while one is open.
    """

    async def get(self, kind: str, id: str) -> Mapping[str, Any]:
        """The row. Raises `NotFound`."""

    async def find(
        self, kind: str, *, where: Mapping[str, Any] | None = None, limit: int = 10_000
    ) -> list[Mapping[str, Any]]:
        """Rows whose columns have these values (a list, tuple or set: any of them), by id."""

    async def insert(self, kind: str, values: Mapping[str, Any]) -> None:
        """Raises `Conflict` where a constraint forbids it."""

    async def update(
        self, kind: str, id: str, values: Mapping[str, Any], *, where: Mapping[str, Any] | None = None
    ) -> bool:
        """Change the row if it still is as `where` says (as in `find`); whether it was."""

    async def delete(self, kind: str, id: str) -> bool: ...

    async def event(
        self, kind: str, message: str, *, host_id: HostId | None = None, data: Json | None = None
    ) -> None:
        """Tell of it; command and engine are added."""

    def shard_of(self, id: str) -> ShardId:
        """The shard to which the entity with this id belongs."""

    def tell(self, id: str) -> None:
        """After the commit, have the owner of this entity's shard look at its rows at once."""


class StepContext(Protocol):
    """What a step works with. `data[name]` is the result of the step `name` before this one."""

    @property
    def command_id(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def operation_id(self) -> str:
        """Unique for each time that a step is intended, the same when it is resumed."""

    @property
    def attempt(self) -> int:
        """1, and one more each time that the command has gone back to this step (`GoBack`)."""

    @property
    def data(self) -> Mapping[str, Json]: ...
    @property
    def host_id(self) -> HostId | None:
        """The host on which this step was intended: what `Step.on_host` had said then."""

    @property
    def children(self) -> Sequence[ChildOutcome]:
        """The ended children of this step; empty before."""

    @property
    def now(self) -> datetime: ...

    def connection(self, host_id: HostId | None = None) -> HostConnection:
        """The live connection to a host of a shard that this engine owns (default: `host_id`).

        Raises `HostUnreachable`: the step waits for the host, then, up to its timeout.
        """

    def progress(self, percent: int, message: str = "") -> None:
        """Say how far this step is, 0..100; written now and then, and never waited for."""


@dataclass(frozen=True, slots=True)
class Happened:
    """A probe found that the effect is there; `result` is what `act` would have returned."""

    result: Json = field(default_factory=dict)


class _Verdict(enum.Enum):
    NOT_HAPPENED = "not_happened"
    UNKNOWN = "unknown"


NOT_HAPPENED = _Verdict.NOT_HAPPENED
"""A probe found that the effect is not there. Within the quarantine it is asked again later."""
UNKNOWN = _Verdict.UNKNOWN
"""It cannot be told now. Asked again, up to `Step.probe_seconds`; then an operator is needed."""

Probed = Happened | _Verdict


class GoBack(Exception):
    """Raised by `act` (or `record`): nothing came of this step; go on from the earlier step `to`.

    What the steps from `to` on changed is undone first, in reverse. Bound the number of rounds by
    `StepContext.attempt`; the engine ends them after `Command.attempts`.
    """

    def __init__(self, to: str, why: str) -> None:
        super().__init__(why)
        self.to = to


class Step(ABC):
    """One move of a command: *intend* (committed) -> *act* -> *record* (committed).

    Built anew by `Command.steps` each time; keeps nothing between calls. What `act` may raise:
    `HostRefused`, `Conflict`, `NotFound`, `InvalidInput` (it did not happen: the command is
    compensated and fails), `GoBack`, `HostUnreachable` (not sent: it is tried again, up to the
    timeout), `OutcomeUnknown` or a timeout (idempotent: again; else it is probed).
    """

    name: ClassVar[str]
    idempotent: ClassVar[bool] = False
    """Acting twice does what acting once does. Else it is sent again only where `probe` said
    NOT_HAPPENED; a step that is not idempotent and has no `probe` is sent at most once."""
    after_quarantine: ClassVar[bool] = False
    """Act only when no verb of an engine that has died can arrive any more (power on after a fence)."""
    timeout_seconds: ClassVar[float] = 60.0
    """Of one `act`, and of waiting for its host."""
    probe_seconds: ClassVar[float] = 300.0
    """How long to go on asking after UNKNOWN."""

    async def on_host(self, context: StepContext, rows: Rows) -> HostId | None:
        """The host to act on. The command travels to that host's shard first; None: act anywhere."""
        return None

    async def intend(self, context: StepContext, rows: Rows) -> None:
        """Write what has to be known before the effect (where a VM is about to run)."""
        return None

    async def children(self, context: StepContext, rows: Rows) -> Sequence[Child]:
        """Commands to run first, asked for with `intend`; `act` runs when all of them have ended and
        finds them in `context.children`. A step with children must be idempotent."""
        return ()

    async def act(self, context: StepContext) -> Json:
        """The effect. A step that only reads or writes rows leaves it out."""
        return {}

    async def probe(self, context: StepContext) -> Probed:
        """Whether the effect is there; called where `act` may or may not have done it."""
        return UNKNOWN

    async def record(self, context: StepContext, rows: Rows, result: Json) -> Json | None:
        """Write what follows from `result`. May return another result to keep in its place."""
        return None

    async def compensate(self, context: StepContext) -> None:
        """Undo the effect, on the host. Has to be idempotent: it may be called more than once."""
        return None

    async def revert(self, context: StepContext, rows: Rows) -> None:
        """Undo what `intend` and `record` wrote, where the row still is as they left it."""
        return None

    @classmethod
    def probes(cls) -> bool:
        """Whether this step can find out what became of it."""
        return cls.probe is not Step.probe


class Command(ABC):
    """What a user asks for, durable. Entry point `engine.commands`; its name there is its type.

    A whole one, in one file:

        @dataclass(frozen=True, slots=True)
        class RebootArguments:
            vm_id: str = argument(identifier, help="the machine to reboot")

        class Reboot(Command):
            arguments_type = RebootArguments
            arguments: RebootArguments
            description = "Reboot the guest system of a virtual machine"

            def entity(self) -> Entity:
                return Entity("vm", self.arguments.vm_id)

            def locks(self) -> LockKeys:
                return LockKeys(exclusive=frozenset({f"vm:{self.arguments.vm_id}"}))

            async def validate(self, rows: Rows) -> None:
                vm = await rows.get("vm", self.arguments.vm_id)
                if vm["status"] != "up":
                    raise Conflict(f"the machine is {vm['status']}, not up")

            def steps(self) -> Sequence[Step]:
                return (SendReboot(self.arguments),)

        class SendReboot(Step):  # not idempotent, no probe: sent at most once
            name = "reboot"

            def __init__(self, arguments: RebootArguments) -> None:
                self.vm_id = arguments.vm_id

            async def on_host(self, context: StepContext, rows: Rows) -> HostId | None:
                vm = await rows.get("vm", self.vm_id)
                return HostId(vm["host_id"])

            async def act(self, context: StepContext) -> Json:
                await context.connection().reboot_vm(self.vm_id, operation_id=context.operation_id)
                return {}

            async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
                await rows.event("vm_rebooted", f"machine {self.vm_id} was rebooted")
    """

    contract: ClassVar[int] = CONTRACT_VERSION
    arguments_type: ClassVar[type]
    """A frozen dataclass; `argument` says what each field accepts."""
    description: ClassVar[str] = ""
    attempts: ClassVar[int] = 5
    """How often one step may be gone back to before the command fails."""

    def __init__(self, arguments: Any) -> None:
        self.arguments = arguments

    @abstractmethod
    def entity(self) -> Entity:
        """What it is about; the command starts in that entity's shard."""

    @abstractmethod
    def locks(self) -> LockKeys:
        """All that it needs to hold. From the arguments alone."""

    async def validate(self, rows: Rows) -> None:
        """Raise `Conflict`, `NotFound` or `InvalidInput` where it cannot be done. Under the locks;
        called before the command is accepted and again before its first step."""
        return None

    @abstractmethod
    def steps(self) -> Sequence[Step]:
        """In order, under unique names. From the arguments alone: a resume asks again, and a name
        that has a result is not run again."""
