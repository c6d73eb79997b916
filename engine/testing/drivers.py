"""The contract suite of host drivers (`engine.plugin.HostDriver`), for those who write one.

Subclass `HostDriverContract`, give it the fixtures `driver` and `host`, and pytest runs it:

    class TestMyDriver(HostDriverContract):
        @pytest.fixture
        async def host(self): ...     # a BreakableHost, running
        @pytest.fixture
        def driver(self): ...         # the driver, its own deadlines at most `deadline_seconds`

It holds a driver to one rule: whatever the host does, a call ends in time, with an answer or with
the error of `engine.plugin` that tells the caller what to do. Needs pytest with pytest-asyncio.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from engine.plugin import (
    CONTRACT_VERSION,
    AuthorityLost,
    HostCapabilities,
    HostConnection,
    HostDriver,
    HostEvent,
    HostRefused,
    HostStatistics,
    HostTarget,
    HostUnreachable,
    OutcomeUnknown,
    VmReport,
)


class BreakableHost(ABC):
    """A host, real or simulated, that the suite breaks. Healthy to begin with, with at least one VM."""

    @property
    @abstractmethod
    def target(self) -> HostTarget: ...

    @abstractmethod
    async def requests(self) -> int:
        """How many calls have reached the host since it began, answered or not."""

    @abstractmethod
    async def silence(self) -> None:
        """From now on say nothing any more, on connections old and new, but keep them open."""

    @abstractmethod
    async def refuse(self) -> None:
        """From now on accept no connections; those that are open end."""

    @abstractmethod
    async def crash(self) -> None:
        """Die at once: connections are reset, none is accepted."""

    @abstractmethod
    async def answer_error(self, code: int, *, times: int) -> None:
        """Refuse the next `times` calls with the agent's error `code`."""

    @abstractmethod
    async def heal(self) -> None:
        """Healthy again."""

    @abstractmethod
    async def say_vm_status(self, vm: str, status: str) -> None:
        """Tell whoever is subscribed that `vm` is now `status`."""


class DecreedAuthority:
    """An `engine.plugin.Authority` that lasts as long as the suite says, and counts who asks."""

    def __init__(self, seconds: float = 3600.0) -> None:
        self.seconds = seconds
        self.checks = 0

    def check(self) -> None:
        self.checks += 1
        if self.seconds <= 0:
            raise AuthorityLost("the suite took it away")

    def remaining_seconds(self) -> float:
        return self.seconds


class HostDriverContract:
    """Every test is a sentence of the contract. Set `deadline_seconds` to what your driver needs."""

    deadline_seconds: ClassVar[float] = 5.0
    """The longest that the driver under test, as the fixture configures it, waits for anything."""

    @pytest.fixture
    def driver(self) -> HostDriver:
        raise NotImplementedError("give the suite your driver")

    @pytest.fixture
    def host(self) -> BreakableHost:
        raise NotImplementedError("give the suite a host that it may break")

    @pytest.fixture
    def authority(self) -> DecreedAuthority:
        return DecreedAuthority()

    def in_time(self) -> asyncio.Timeout:
        """A scope that fails the test when it takes longer than the driver may."""
        return asyncio.timeout(3 * self.deadline_seconds)

    # --- what a driver is ---

    def test_a_driver_is_written_for_this_contract(self, driver: HostDriver) -> None:
        assert driver.contract == CONTRACT_VERSION

    def test_options_say_what_they_are_for(self, driver: HostDriver) -> None:
        assert all(option.name and option.help for option in driver.options)

    # --- a healthy host ---

    async def test_a_healthy_host_answers_with_records(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority
    ) -> None:
        async with self.in_time():
            connection = await driver.connect(host.target, authority=authority, on_event=ignore)
            capabilities = await connection.capabilities()
            statistics = await connection.statistics()
            vms = await connection.vms()
            await connection.close()
        assert isinstance(capabilities, HostCapabilities)
        assert capabilities.cpu_cores > 0
        assert capabilities.memory_bytes > 2**20
        assert isinstance(statistics, HostStatistics)
        assert statistics.vm_count == len(vms) > 0
        assert 0 <= statistics.memory_free_bytes <= capabilities.memory_bytes
        assert 0 <= statistics.cpu_load_percent <= 100
        assert all(isinstance(vm, VmReport) and vm.status for vm in vms)

    async def test_calls_at_the_same_time_each_get_their_own_answer(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority
    ) -> None:
        async with self.in_time():
            one = await driver.connect(host.target, authority=authority, on_event=ignore)
            two = await driver.connect(host.target, authority=authority, on_event=ignore)
            calls = [(c.statistics(), c.vms(), c.capabilities()) for c in (one, two) * 3]
            answers = [await asyncio.gather(*three) for three in calls]
            await one.close()
            await two.close()
        kinds = [tuple(type(answer) for answer in three) for three in answers]
        assert kinds == [(HostStatistics, tuple, HostCapabilities)] * 6

    async def test_events_arrive_in_order_with_the_status_in_their_params(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority
    ) -> None:
        events: asyncio.Queue[HostEvent] = asyncio.Queue()
        async with self.in_time():
            connection = await driver.connect(host.target, authority=authority, on_event=events.put_nowait)
            await connection.statistics()
            for status in ("Powering up", "Up", "Down"):
                await host.say_vm_status("vm-1", status)
            said = [await events.get() for _ in range(3)]
            await connection.close()
        assert [(event.kind, event.subject) for event in said] == [("vm_status", "vm-1")] * 3
        assert [event.params["status"] for event in said] == ["Powering up", "Up", "Down"]
        assert said[0].notify_seconds <= said[1].notify_seconds <= said[2].notify_seconds

    # --- authority ---

    async def test_without_authority_nothing_is_connected(
        self, driver: HostDriver, host: BreakableHost
    ) -> None:
        async with self.in_time():
            with pytest.raises(AuthorityLost):
                await driver.connect(host.target, authority=DecreedAuthority(0), on_event=ignore)

    async def test_without_authority_nothing_is_sent_and_with_it_again_calls_go_on(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority
    ) -> None:
        async with self.in_time():
            connection = await driver.connect(host.target, authority=authority, on_event=ignore)
            await connection.statistics()
            before = await host.requests()
            authority.seconds = 0.0
            for call in (connection.statistics, connection.vms, connection.capabilities):
                with pytest.raises(AuthorityLost):
                    await call()
            assert not connection.lost.is_set()
            authority.seconds = 60.0
            await connection.statistics()
            assert await host.requests() == before + 1
            await connection.close()

    async def test_every_call_checks_authority(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority
    ) -> None:
        async with self.in_time():
            connection = await driver.connect(host.target, authority=authority, on_event=ignore)
            for call in (connection.capabilities, connection.statistics, connection.vms):
                before = authority.checks
                await call()
                assert authority.checks > before
            await connection.close()

    # --- a host that fails ---

    async def test_a_host_that_refuses_connections_is_unreachable(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority
    ) -> None:
        await host.refuse()
        async with self.in_time():
            with pytest.raises(HostUnreachable):
                await driver.connect(host.target, authority=authority, on_event=ignore)

    async def test_a_silent_host_is_unreachable_by_the_deadline(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority
    ) -> None:
        await host.silence()
        async with self.in_time():
            with pytest.raises(HostUnreachable):
                await driver.connect(host.target, authority=authority, on_event=ignore)

    async def test_a_host_that_falls_silent_leaves_a_call_unknown_by_the_deadline(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority
    ) -> None:
        async with self.in_time():
            connection = await driver.connect(host.target, authority=authority, on_event=ignore)
            await host.silence()
            with pytest.raises(OutcomeUnknown):
                await connection.statistics()
            await connection.close()

    async def test_a_host_that_crashes_leaves_a_call_unknown_and_the_connection_lost(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority
    ) -> None:
        async with self.in_time():
            connection = await driver.connect(host.target, authority=authority, on_event=ignore)
            before = await host.requests()
            await host.silence()
            call = asyncio.create_task(connection.statistics(), name="statistics")
            await self.until(host, before + 1)
            await host.crash()
            with pytest.raises(OutcomeUnknown):
                await call
            await connection.lost.wait()
            await self.refuses_calls(connection)
            await connection.close()

    async def test_a_connection_that_ends_while_idle_is_lost_and_a_new_one_works(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority
    ) -> None:
        async with self.in_time():
            connection = await driver.connect(host.target, authority=authority, on_event=ignore)
            await host.refuse()
            await connection.lost.wait()
            await self.refuses_calls(connection)
            await connection.close()
            await host.heal()
            connection = await driver.connect(host.target, authority=authority, on_event=ignore)
            await connection.statistics()
            await connection.close()

    @pytest.mark.parametrize("code", [99, 1100])
    async def test_an_error_of_the_agent_keeps_its_code_and_the_connection(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority, code: int
    ) -> None:
        async with self.in_time():
            connection = await driver.connect(host.target, authority=authority, on_event=ignore)
            await host.answer_error(code, times=1)
            with pytest.raises(HostRefused) as refused:
                await connection.statistics()
            assert refused.value.code == code
            await connection.statistics()
            assert not connection.lost.is_set()
            await connection.close()

    # --- the end ---

    async def test_closing_leaves_calls_unknown_and_nothing_behind(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority
    ) -> None:
        async with self.in_time():
            connection = await driver.connect(host.target, authority=authority, on_event=ignore)
            before = await host.requests()
            await host.silence()
            call = asyncio.create_task(connection.statistics(), name="statistics")
            await self.until(host, before + 1)
            await connection.close()
            assert connection.lost.is_set()
            with pytest.raises(OutcomeUnknown):
                await call
            await connection.close()
            await self.refuses_calls(connection)

    async def test_no_task_outlives_a_connection(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority
    ) -> None:
        before = {task.get_name() for task in asyncio.all_tasks()}
        async with self.in_time():
            connection = await driver.connect(host.target, authority=authority, on_event=ignore)
            await connection.statistics()
            await connection.close()
            await driver.close()
        assert {task.get_name() for task in asyncio.all_tasks()} <= before

    async def test_a_cancelled_call_leaves_the_connection_usable(
        self, driver: HostDriver, host: BreakableHost, authority: DecreedAuthority
    ) -> None:
        async with self.in_time():
            connection = await driver.connect(host.target, authority=authority, on_event=ignore)
            call = asyncio.create_task(connection.statistics(), name="statistics")
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert isinstance(await connection.vms(), tuple)
            await connection.close()

    # --- words of the suite ---

    @staticmethod
    async def refuses_calls(connection: HostConnection) -> None:
        """A lost connection carries nothing: the same error class whichever call it is."""
        calls: tuple[Callable[[], Any], ...] = (
            connection.capabilities,
            connection.statistics,
            connection.vms,
        )
        for call in calls:
            with pytest.raises(HostUnreachable):
                await call()

    @staticmethod
    async def until(host: BreakableHost, requests: int) -> None:
        """Wait until that many calls have reached the host."""
        while await host.requests() < requests:  # noqa: ASYNC110 - a host can only be asked
            await asyncio.sleep(0.005)


def ignore(event: HostEvent) -> None:
    """An event that the test does not care about."""
