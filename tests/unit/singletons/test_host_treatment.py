from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import ClassVar

from engine.errors import Unavailable
from engine.plugin import Answer, EngineId
from engine.testing.singletons import SingletonContract
from plugins.singletons.host_treatment import HostTreatment, Treatment, doubt, too_new
from plugins.tasks.hosts import Reached

NOW = datetime(2026, 1, 1, tzinfo=UTC)
A, B, C = EngineId("a"), EngineId("b"), EngineId("c")


class TestHostTreatment(SingletonContract):
    plugin = HostTreatment
    values: ClassVar = {"interval_seconds": 0.1}


def cut(engine: EngineId) -> Answer:
    return Answer(engine, result=Reached(engine=engine, answered=False, lives=False, why="no route"))


def lives(engine: EngineId) -> Answer:
    return Answer(engine, result=Reached(engine=engine, answered=True, lives=True))


def silent(engine: EngineId) -> Answer:
    return Answer(engine, error=Unavailable("no answer"))


def test_two_engines_that_cannot_reach_it_confirm_and_one_alone_does_where_it_is_alone() -> None:
    assert doubt([A], [cut(A)]) is None
    assert doubt([A, B], [cut(A), cut(B)]) is None
    assert doubt([A, B, C], [cut(A), silent(B), cut(C)]) is None


def test_one_engine_that_reaches_it_is_enough_to_spare_the_host() -> None:
    assert doubt([A, B, C], [cut(A), cut(B), lives(C)]) == "c reaches it"


def test_an_engine_whose_peers_do_not_answer_confirms_nothing() -> None:
    assert "no second engine" in (doubt([A, B], [cut(A), silent(B)]) or "")
    assert "b" in (doubt([A, B], [cut(A)]) or "")
    assert doubt([A], []) is not None
    assert doubt([A], [silent(A)]) is not None


def test_an_agent_that_refuses_is_alive() -> None:
    refusing = Answer(B, result=Reached(engine=B, answered=False, lives=True, why="recovering"))
    assert doubt([A, B], [cut(A), refusing]) == "b reaches it"


def test_nothing_is_fenced_before_one_engine_has_been_here_for_a_while() -> None:
    young, old = NOW - timedelta(seconds=10), NOW - timedelta(seconds=300)
    assert too_new({A: young, B: young}, NOW, quiet_seconds=300) is not None
    assert too_new({A: young, B: old}, NOW, quiet_seconds=300) is None
    assert too_new({}, NOW, quiet_seconds=0) is not None


def test_each_treatment_of_an_incident_has_a_key_that_all_leaders_share() -> None:
    first, again = Treatment(NOW), Treatment(NOW, number=1)
    assert first.key("h") == Treatment(NOW, next_at=NOW).key("h")
    assert len({first.key("h"), again.key("h"), Treatment(NOW + timedelta(1)).key("h")}) == 3
