"""The name that a backend bears."""

from __future__ import annotations

from engine.db.postgresql import NAME_BYTES, application_name


def test_a_name_is_cut_to_what_the_server_keeps_without_breaking_a_character() -> None:
    name = application_name("ü" * 99, 2**64 - 1)
    assert NAME_BYTES - 1 <= len(name.encode()) <= NAME_BYTES
    assert name.startswith("engine:ffffffffffffffff:üü")
