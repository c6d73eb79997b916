"""Keys as names of nodes: any text comes back, and nothing that ZooKeeper refuses is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidInput
from engine.state.keys import BIRTHS, MOST_KEY_BYTES, checked_map, key_of, node_of

_FORBIDDEN = [(0x00, 0x1F), (0x7F, 0x9F), (0xD800, 0xF8FF), (0xFFF0, 0xFFFF)]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_every_key_comes_back_and_its_node_has_only_what_zookeeper_takes(key: str) -> None:
    node = node_of(key)
    assert key_of(node) == key
    assert "/" not in node
    assert node not in (".", "..", BIRTHS)
    assert not any(low <= ord(character) <= high for character in node for low, high in _FORBIDDEN)


@given(st.lists(st.text(alphabet="a%/2F.B", min_size=1, max_size=6), unique=True))
def test_different_keys_have_different_nodes(keys: list[str]) -> None:
    assert len({node_of(key) for key in keys}) == len(keys)


def test_plain_keys_are_spelt_as_they_are() -> None:
    assert node_of("host 7:é") == "host 7:é"
    assert node_of("a/b%") == "a%2Fb%25"


@pytest.mark.parametrize("key", ["", "x" * (MOST_KEY_BYTES + 1), "/" * 100, "\ud800"])
def test_what_cannot_be_a_key_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be a key of a map"):
        node_of(key)


@pytest.mark.parametrize("name", ["", "Rooms", "a/b", "9lives", "x" * 64])
def test_what_cannot_be_a_map_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name of a map"):
        checked_map(name)
