"""A duty with a plugin that misbehaves; leadership comes from the test instead of ZooKeeper."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType

import pytest

import engine
from engine.election.leadership import HeldLeadership
from engine.errors import AuthorityLost, Unavailable
from engine.plugin import Leadership, PluginContext, Singleton
from engine.singletons.backoff import BackOff
from engine.singletons.brood import PluginExited, know_tasks
from engine.singletons.duty import Duty, DutySettings
from engine.singletons.loading import SingletonPlugin
from engine.singletons.status import DutyState
from engine.testing.singletons import RecordedEvents, SwitchedAuthority, context
from tests.unit.singletons.waiting import until

Run = Callable[[Leadership], Awaitable[None]]


class Polls:
    """Hands out terms, and remembers them."""

    def __init__(self) -> None:
        self.terms: list[HeldLeadership] = []
        self.resigned: list[int] = []
        self.over: Exception | None = None

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[HeldLeadership]:
        if self.over is not None:
            raise self.over
        term = HeldLeadership(
            SwitchedAuthority(), name="duty", token=len(self.terms) + 1, lost=asyncio.Event(), why=str
        )
        self.terms.append(term)
        try:
            yield term
        finally:
            self.resigned.append(term.token)


def duty_of(run: Run, *, stop_seconds: float = 1.0, first_seconds: float = 0.001) -> Duty:
    class Plugin(Singleton):
        async def run(self, leadership: Leadership) -> None:
            await run(leadership)

    return Duty(
        SingletonPlugin("duty", "tests:Plugin", Plugin, {}),
        context(Plugin, {}, RecordedEvents()),
        settings=DutySettings(
            back_off=BackOff(first_seconds=first_seconds, longest_seconds=60), stop_seconds=stop_seconds
        ),
        chance=lambda: 0.5,
    )


class Running:
    """Runs the duty while the body runs; leaving cancels it."""

    def __init__(self, duty: Duty, polls: Polls) -> None:
        self.duty, self.polls = duty, polls

    async def __aenter__(self) -> asyncio.Task[None]:
        know_tasks(asyncio.get_running_loop())
        self.task = asyncio.create_task(self.duty.run(self.polls), name="duty under test")
        return self.task

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


async def _raises(_: Leadership) -> None:
    raise RuntimeError("the disk is full")


async def _exits(_: Leadership) -> None:
    sys.exit(3)


async def _interrupts(_: Leadership) -> None:
    raise KeyboardInterrupt


async def _returns(_: Leadership) -> None:
    return None


async def _cancels_itself(_: Leadership) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        (_raises, "RuntimeError: the disk is full"),
        (_exits, "SystemExit: 3"),
        (_interrupts, "KeyboardInterrupt: "),
        (_returns, "run() returned; a singleton runs until it is cancelled"),
        (_cancels_itself, "it cancelled itself"),
    ],
)
async def test_a_plugin_that_ends_is_logged_resigns_and_is_started_again(
    run: Run, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    duty, polls = duty_of(run), Polls()
    async with Running(duty, polls) as task:
        await until(lambda: len(polls.terms) >= 3)
        assert not task.done()
        assert duty.status.fault == fault
        assert duty.status.failures >= 2
        assert polls.resigned[:2] == [1, 2]
        with pytest.raises(AuthorityLost):
            polls.terms[0].check()
    assert fault in caplog.text


async def test_the_traceback_is_logged_and_kept_for_display(caplog: pytest.LogCaptureFixture) -> None:
    duty, polls = duty_of(_raises, first_seconds=60), Polls()
    async with Running(duty, polls):
        await until(lambda: duty.status.state is DutyState.RESTING)
        assert "in _raises" in duty.status.details
        assert "in _raises" in caplog.text


async def test_a_resting_plugin_is_no_candidate() -> None:
    duty, polls = duty_of(_raises, first_seconds=60), Polls()
    async with Running(duty, polls):
        await until(lambda: duty.status.state is DutyState.RESTING)
        assert polls.resigned == [1]


async def test_the_plugin_is_cancelled_at_its_await_when_the_term_ends() -> None:
    cancelled: list[int] = []

    async def waits(leadership: Leadership) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(leadership.token)
            raise

    duty, polls = duty_of(waits), Polls()
    async with Running(duty, polls):
        await until(lambda: duty.status.state is DutyState.RUNNING)
        polls.terms[0].end("its node is gone")
        await until(lambda: len(polls.terms) == 2)
        assert cancelled == [1]
        assert duty.status.failures == 0


async def test_the_task_of_a_plugin_bears_its_name() -> None:
    names: list[str] = []

    async def tells(_: Leadership) -> None:
        task = asyncio.current_task()
        names.append(task.get_name() if task else "")
        await asyncio.Event().wait()

    async with Running(duty_of(tells), Polls()):
        await until(lambda: names)
    assert names == ["singleton duty"]


async def test_a_plugin_that_ignores_its_cancellation_is_abandoned_and_not_doubled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release, alive = asyncio.Event(), 0

    async def stubborn(_: Leadership) -> None:
        nonlocal alive
        alive += 1
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        alive -= 1

    duty, polls = duty_of(stubborn, stop_seconds=0.02), Polls()
    async with Running(duty, polls):
        await until(lambda: alive == 1)
        try:
            polls.terms[0].end("another engine leads")
            await until(lambda: duty.status.state is DutyState.STUCK)
            assert polls.resigned == [1]
            assert "in stubborn" in caplog.text
            with pytest.raises(AuthorityLost):
                polls.terms[0].check()
            assert len(polls.terms) == 1
        finally:
            release.set()
        await until(lambda: alive == 0 and len(polls.terms) > 1)


async def test_stopping_the_engine_waits_for_a_stubborn_plugin_no_longer_than_told() -> None:
    release = asyncio.Event()

    async def stubborn(_: Leadership) -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    duty, polls = duty_of(stubborn, stop_seconds=0.05), Polls()
    async with asyncio.timeout(5):
        async with Running(duty, polls):
            await until(lambda: duty.status.state is DutyState.RUNNING)
        assert polls.resigned == [1]
        release.set()


async def test_a_plugin_that_gives_up_without_authority_is_not_blamed() -> None:
    async def careful(_: Leadership) -> None:
        raise AuthorityLost("suspended")

    duty, polls = duty_of(careful), Polls()
    async with Running(duty, polls):
        await until(lambda: len(polls.terms) >= 3)
        assert duty.status.failures == 0


async def test_a_constructor_that_raises_is_a_fault_as_any_other() -> None:
    class Broken(Singleton):
        def __init__(self, context: PluginContext) -> None:
            raise ValueError("no such option")

        async def run(self, leadership: Leadership) -> None: ...

    duty, polls = duty_of(_returns), Polls()
    duty.plugin = SingletonPlugin("duty", "tests:Broken", Broken, {})
    async with Running(duty, polls):
        await until(lambda: len(polls.terms) >= 2)
        assert duty.status.fault == "ValueError: no such option"


async def test_a_cluster_that_is_away_is_waited_for() -> None:
    duty, polls = duty_of(_raises), Polls()
    polls.over = Unavailable("no server answers")
    async with Running(duty, polls) as task:
        await until(lambda: duty.status.state is DutyState.WAITING)
        polls.over = None
        await until(lambda: polls.terms)
        assert not task.done()


async def test_a_duty_ends_with_the_session() -> None:
    duty, polls = duty_of(_raises), Polls()
    polls.over = AuthorityLost("the session is over")
    async with Running(duty, polls) as task:
        await asyncio.wait({task}, timeout=5)
        assert isinstance(task.exception(), AuthorityLost)
        assert duty.status.state is DutyState.STOPPED
    polls.over = None


async def test_a_long_good_run_is_forgiven(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    duty = duty_of(_raises)
    duty._settings = DutySettings(back_off=BackOff(first_seconds=0.001, longest_seconds=0.0))
    polls = Polls()
    async with Running(duty, polls):
        await until(lambda: len(polls.terms) >= 4)
        assert duty.status.failures == 1


class InThread(Singleton):
    """A plain `def`, as written around a library that blocks."""

    beats: list[int]
    obedient = True

    def run(self, leadership: Leadership) -> None:
        self.beats.append(threading.get_ident())
        while not leadership.stopping.wait(60) or not self.obedient:
            self.beats.append(threading.get_ident())


def threaded_duty(*, stop_seconds: float = 5.0, obedient: bool = True) -> tuple[Duty, type[InThread]]:
    class Plugin(InThread):
        beats: list[int] = []  # noqa: RUF012

    Plugin.obedient = obedient
    duty = duty_of(_returns, stop_seconds=stop_seconds)
    duty.plugin = SingletonPlugin("duty", "tests:InThread", Plugin, {})
    return duty, Plugin


async def test_a_plain_function_runs_in_a_thread_and_ends_by_its_stopping() -> None:
    duty, plugin = threaded_duty()
    polls = Polls()
    async with Running(duty, polls):
        await until(lambda: plugin.beats)
        assert threading.get_ident() not in plugin.beats
        polls.terms[0].end("another engine leads")
        await until(lambda: len(polls.terms) == 2)
        assert polls.resigned == [1]
        assert duty.status.failures == 0
    assert polls.resigned == [1, 2]


async def test_somebody_who_asks_for_a_run_wakes_the_thread() -> None:
    duty, plugin = threaded_duty()
    polls = Polls()
    async with Running(duty, polls):
        await until(lambda: len(plugin.beats) == 1)
        polls.terms[0].hurry()
        await until(lambda: len(plugin.beats) == 2)
        assert len(polls.terms) == 1


async def test_a_thread_that_does_not_stop_is_abandoned_and_not_doubled() -> None:
    duty, plugin = threaded_duty(stop_seconds=0.05, obedient=False)
    polls = Polls()
    async with Running(duty, polls):
        await until(lambda: plugin.beats)
        polls.terms[0].end("another engine leads")
        await until(lambda: duty.status.state is DutyState.STUCK)
        assert len(polls.terms) == 1
        plugin.obedient = True
        await until(lambda: len(polls.terms) == 2)


async def test_what_a_thread_raises_is_a_fault_with_its_traceback() -> None:
    class Plugin(Singleton):
        def run(self, leadership: Leadership) -> None:
            sys.exit(4)

    duty, polls = duty_of(_returns, first_seconds=60), Polls()
    duty.plugin = SingletonPlugin("duty", "tests:Plugin", Plugin, {})
    async with Running(duty, polls):
        await until(lambda: duty.status.state is DutyState.RESTING)
        assert duty.status.fault == "SystemExit: 4"
        assert "sys.exit(4)" in duty.status.details


async def test_tasks_that_a_run_leaves_behind_are_cancelled_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    left: list[asyncio.Task[object]] = []

    async def leaves(_: Leadership) -> None:
        left.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))
        raise RuntimeError("the disk is full")

    duty = duty_of(leaves, first_seconds=60)
    async with Running(duty, Polls()):
        await until(lambda: duty.status.state is DutyState.RESTING)
        await until(lambda: left[0].cancelled())
        assert duty.status.tasks_left == 1
    assert "forgotten" in caplog.text


async def test_tasks_that_others_start_on_the_way_are_left_alone() -> None:
    """As a pool that opens a connection when the first one asks for it."""
    made: list[asyncio.Task[object]] = []

    async def asks(_: Leadership) -> None:
        exec(compile(POOL, f"{Path(engine.__file__).parent}/db/pool.py", "exec"), {"made": made})
        raise RuntimeError("the disk is full")

    duty = duty_of(asks, first_seconds=60)
    async with Running(duty, Polls()):
        await until(lambda: duty.status.state is DutyState.RESTING)
        assert duty.status.tasks_left == 0
        assert not made[0].done()
        made[0].cancel()


POOL = "import asyncio; made.append(asyncio.get_running_loop().create_task(asyncio.Event().wait()))"


async def test_a_task_of_a_plugin_that_exits_is_its_fault_and_ends_nothing_else() -> None:
    async def leaves() -> None:
        await asyncio.sleep(0)
        sys.exit(5)

    async def exits(_: Leadership) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(leaves())
            group.create_task(asyncio.Event().wait())

    duty = duty_of(exits, first_seconds=60)
    async with Running(duty, Polls()) as task:
        await until(lambda: duty.status.state is DutyState.RESTING)
        assert "SystemExit: 5" in duty.status.details
        assert not task.done()


async def test_a_bare_task_of_a_plugin_that_exits_does_not_end_the_loop() -> None:
    started: list[asyncio.Task[None]] = []

    async def leaves() -> None:
        sys.exit(5)

    async def carries_on(_: Leadership) -> None:
        started.append(asyncio.create_task(leaves()))
        await asyncio.Event().wait()

    duty = duty_of(carries_on)
    async with Running(duty, Polls()):
        await until(lambda: started and started[0].done())
        assert isinstance(started[0].exception(), PluginExited)
        assert duty.status.state is DutyState.RUNNING


async def test_after_so_many_failures_it_yields_until_its_time_is_over() -> None:
    told: list[bool] = []
    duty = duty_of(_raises)
    duty._settings = DutySettings(
        back_off=BackOff(first_seconds=0.001, longest_seconds=60), yield_after=3, yield_seconds=0.05
    )
    duty._told = lambda: told.append(duty.status.yielding)
    async with Running(duty, Polls()):
        await until(lambda: duty.status.failures == 2)
        assert not duty.status.yielding
        await until(lambda: duty.status.yielding)
        assert duty.status.failures >= 3
        await until(lambda: True in told and told[-1] is False)


async def test_one_who_rests_tries_again_when_it_is_stirred() -> None:
    duty, polls = duty_of(_raises, first_seconds=60), Polls()
    async with Running(duty, polls):
        await until(lambda: duty.status.state is DutyState.RESTING)
        duty.stir()
        await until(lambda: len(polls.terms) == 2)


async def test_a_beat_that_hangs_is_a_fault_that_tells_where() -> None:
    async def hangs(leadership: Leadership) -> None:
        async for beat in leadership.every(0.001):
            if beat:
                await asyncio.Event().wait()

    duty, polls = duty_of(hangs, first_seconds=60), Polls()
    duty.plugin.factory.beat_seconds = 0.05
    async with Running(duty, polls):
        await until(lambda: duty.status.state is DutyState.RESTING)
        assert duty.status.fault == "a beat took longer than 0.05 s"
        assert "in hangs" in duty.status.details
        assert polls.resigned == [1]


async def test_waiting_long_between_two_beats_is_no_fault() -> None:
    async def waits(leadership: Leadership) -> None:
        async for _ in leadership.every(3600):
            pass

    duty, polls = duty_of(waits), Polls()
    duty.plugin.factory.beat_seconds = 0.01
    async with Running(duty, polls):
        await until(lambda: duty.status.state is DutyState.RUNNING)
        ended = asyncio.ensure_future(polls.terms[0].ended.wait())
        done, _ = await asyncio.wait({ended}, timeout=0.2)
        ended.cancel()
        assert not done


async def test_one_that_is_stuck_tells_where_it_waits() -> None:
    release = asyncio.Event()

    async def stubborn(_: Leadership) -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    duty, polls = duty_of(stubborn, stop_seconds=0.02), Polls()
    async with Running(duty, polls):
        await until(lambda: duty.status.state is DutyState.RUNNING)
        polls.terms[0].end("another engine leads")
        await until(lambda: duty.status.state is DutyState.STUCK)
        assert duty.status.fault == "it ignored its cancellation for 0.02 s"
        assert "in stubborn" in duty.status.details
        release.set()
