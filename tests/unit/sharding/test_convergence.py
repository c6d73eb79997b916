"""Members that act on partly stale views, in any interleaving, end in one balanced state and rest there.

The shared truth is a dict; a take succeeds only where nobody owns, as the node's transaction decides.
Each member looks at an old picture of it. Hypothesis chooses who looks and who acts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.plugin import ClusterView, EngineId, MemberView
from engine.sharding.assignment import plan
from tests.unit.sharding.views import Owners, counts, member, moved, view

SHARDS = 24
NAMES = [f"engine-{letter}" for letter in "abcde"]


@dataclass
class World:
    """The truth, and what each member last saw of it."""

    of: dict[EngineId, MemberView] = field(default_factory=dict)
    owners: Owners = field(default_factory=dict)
    seen: dict[EngineId, ClusterView] = field(default_factory=dict)

    def look(self, engine: EngineId) -> None:
        self.seen[engine] = view(self.of.values(), SHARDS, self.owners)

    def come_or_go(self, name: str) -> None:
        engine = EngineId(name)
        if engine in self.of:
            del self.of[engine], self.seen[engine]
            self.owners = {s: e for s, e in self.owners.items() if e != engine}
        else:
            self.of[engine] = member(name)
            self.look(engine)

    def act(self, engine: EngineId, limit: int) -> int:
        """Carry out up to `limit` parts of the own plan; return how many shards changed hands."""
        planned, done = plan(self.seen[engine]), 0
        for shard, wanted_by in planned.items():
            if done == limit:
                break
            if self.owners.get(shard) == engine and wanted_by != engine:
                del self.owners[shard]
                done += 1
            elif wanted_by == engine and shard not in self.owners:
                self.owners[shard] = engine
                done += 1
        return done

    def settle(self) -> None:
        for _ in range(2 * len(self.of) + 2):
            changes = 0
            for engine in sorted(self.of):
                self.look(engine)
                changes += self.act(engine, SHARDS)
            if not changes:
                return
        raise AssertionError("the members play ping-pong")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["come or go", "look", "act", "act"]), st.sampled_from(NAMES), st.integers(1, 9)
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(STEPS)
def test_members_with_stale_views_converge_to_balance_and_rest(
    steps: list[tuple[str, str, int]],
) -> None:
    world = World()
    for step, name, limit in steps:
        engine = EngineId(name)
        if step == "come or go":
            world.come_or_go(name)
        elif engine in world.of:
            world.look(engine) if step == "look" else world.act(engine, limit)
    if not world.of:
        return
    world.settle()
    held = counts(world.owners, world.of.values())
    assert sum(held.values()) == SHARDS
    assert max(held.values()) - min(held.values()) <= 1
    assert all(plan(view(world.of.values(), SHARDS, world.owners))[s] == e for s, e in world.owners.items())


@settings(max_examples=200)
@given(
    st.sampled_from([2, 3, 4, 5]), st.booleans(), st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)))
)
def test_after_one_change_of_members_staleness_costs_no_extra_move(
    count: int, joins: bool, acts: list[tuple[int, int]]
) -> None:
    world = World()
    for name in NAMES[: count - joins]:
        world.come_or_go(name)
    world.settle()
    before = dict(world.owners)
    world.come_or_go(NAMES[count - 1] if joins else NAMES[0])
    ideal = dict(plan(view(world.of.values(), SHARDS, world.owners)))
    for engine in world.of:  # each has heard of the change, at a different stage of the move
        world.look(engine)
    for who, limit in acts:
        name = sorted(world.of)[who % len(world.of)]
        world.act(name, limit)
        if limit % 2:
            world.look(name)
    world.settle()
    assert world.owners == ideal
    assert moved(before, world.owners) == moved(before, ideal)
