"""The tree as zkCli shows it."""

from __future__ import annotations

import pytest

from engine.coordination.paths import Paths, parent_of
from engine.errors import InvalidInput


def test_everything_of_a_cluster_lies_below_its_root() -> None:
    paths = Paths("prod")
    assert paths.root == "/engine/prod"
    assert paths.incarnation == "/engine/prod/incarnation"
    assert paths.member("e1") == "/engine/prod/members/e1"
    assert paths.owner(7) == "/engine/prod/shards/0007/owner"
    assert paths.inbox_shard(255) == "/engine/prod/inbox/0255"
    assert paths.singleton("event_retention") == "/engine/prod/singletons/event_retention"
    assert paths.config == "/engine/prod/config"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "zookeeper", "a\0", "line\nbreak"])
def test_a_name_that_zookeeper_would_refuse_is_refused_here(name: str) -> None:
    with pytest.raises(InvalidInput):
        Paths(name)
    with pytest.raises(InvalidInput):
        Paths("ok").member(name)


def test_the_parent_of_a_top_level_node_is_the_root() -> None:
    assert parent_of("/engine/prod") == "/engine"
    assert parent_of("/engine") == "/"
