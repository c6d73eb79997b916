"""Commands (`engine.commands`): what users ask for; durable, they outlive the engine that runs them."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from engine.plugin.base import CONTRACT_VERSION, HostId
from engine.plugin.hosts import HostConnection
from engine.plugin.rows import Entity, Json, Rows

if TYPE_CHECKING:
    from engine.plugin.singletons import Leadership


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

    async def restart_agent(self) -> None:
        """Have the agent of `host_id` start again by a way that needs no agent (`HostDriver.restart_agent`).

        Raises `HostUnreachable` (nothing was sent), `HostRefused`, `OutcomeUnknown`, `AuthorityLost`.
        """

    def reveal(self, secret: str) -> str:
        """The password that a row keeps encrypted. Keep it out of results. Raises `Conflict` where this
        engine lacks the key."""

    def progress(self, percent: int, message: str = "") -> None:
        """Say how far this step is, 0..100; written now and then, and never waited for."""


@dataclass(frozen=True, slots=True)
class Happened:
    """A probe found that the effect is there; `result` is what `act` would have returned."""

    result: Json = field(default_factory=dict)


class CommandDesk(Protocol):
    """Asks for commands in the name of a plugin, as a user would."""

    async def submit(
        self,
        command: str,
        arguments: Json,
        *,
        key: str | None = None,
        lock_wait_seconds: float | None = None,
    ) -> str:
        """The id of the command, accepted and durable. `command` is its entry point's name.

        With the same `key` it is accepted once only, and the same id is answered again. Raises
        `Conflict` (what it needs is locked: the message says by whom), `NotFound`, `InvalidInput`,
        `Unavailable`. With `lock_wait_seconds` it is accepted though its locks are taken.
        """

    async def asked_for(self, key: str) -> str | None:
        """The command that this plugin has asked for with this key, on whatever engine; None: none yet."""

    async def outcome(self, command_id: str, *, wait_seconds: float = 0.0) -> ChildOutcome | None:
        """How it ended; None while it has not, after waiting. Raises `NotFound`."""

    async def prune(self, *, ended_before: datetime, limit: int, leadership: Leadership) -> int:
        """Forget up to `limit` commands that ended before this, the oldest first, each with its children,
        steps and keys; return how many rows of commands went.

        Guarded by the leadership: raises `Fenced` when a later leader was here.
        """


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
    reads_only: ClassVar[bool] = False
    """`act` only asks or waits. What any other step sent may arrive after its engine has died: until it
    no longer can, a command that was taken over at such a step keeps its locks."""
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

    async def fenced(self, context: StepContext) -> Probed:
        """What came of it, where its host was switched off after it had been intended (fencing). No host
        can be asked. Unless it has `Happened` the command is undone, without asking that host, and fails;
        or raise `GoBack`."""
        return NOT_HAPPENED

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

    @classmethod
    def sends(cls) -> bool:
        """Whether something of this step can be on its way when its engine dies."""
        return cls.act is not Step.act and not cls.reads_only

    @classmethod
    def undoes(cls) -> bool:
        """Whether undoing it reaches beyond the rows."""
        return cls.compensate is not Step.compensate


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
