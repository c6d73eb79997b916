"""Secrets are read with the keys that they were written with, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import Conflict, InvalidInput
from engine.secrets import Secrets, is_encrypted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Secrets.make_key(tmp_path / "keys")
    return tmp_path / "keys"


def test_what_is_kept_does_not_show_the_secret_and_can_be_read(file: Path) -> None:
    secrets = Secrets.from_file(file)
    kept = secrets.encrypt("hunter2 é")
    assert is_encrypted(kept)
    assert "hunter2" not in kept
    assert secrets.decrypt(kept) == "hunter2 é"


def test_a_new_key_in_front_encrypts_and_the_old_one_still_decrypts(file: Path) -> None:
    old = Secrets.from_file(file)
    kept = old.encrypt("secret")
    Secrets.make_key(file)
    both = Secrets.from_file(file)
    assert both.decrypt(kept) == "secret"
    rotated = both.rotate(kept)
    file.write_text(file.read_text().splitlines()[0] + "\n")
    only_new = Secrets.from_file(file)
    assert only_new.decrypt(rotated) == "secret"
    with pytest.raises(Conflict, match=r"a key that .*keys does not have"):
        only_new.decrypt(kept)


def test_a_text_from_before_there_was_a_key_stands_for_itself(file: Path) -> None:
    assert Secrets.from_file(file).decrypt("plain") == Secrets().decrypt("plain") == "plain"


def test_without_a_key_nothing_is_written_and_the_option_is_named(file: Path) -> None:
    kept = Secrets.from_file(file).encrypt("secret")
    with pytest.raises(Conflict, match=r"set \[database\] secrets_key_file"):
        Secrets.given(None).encrypt("secret")
    with pytest.raises(Conflict, match=r"set \[database\] secrets_key_file"):
        Secrets.given(None).decrypt(kept)


@pytest.mark.parametrize(
    ("content", "mode", "complaint"),
    [
        ("", 0o600, "has no key in it"),
        ("# none\n\n", 0o600, "has no key in it"),
        ("# one\nabc\n", 0o600, "line 2: not a key"),
        ("abc", 0o640, "can be read by others"),
        ("é", 0o600, "is not a file of keys"),
    ],
)
def test_a_file_that_is_no_key_file_is_refused_by_name(
    tmp_path: Path, content: str, mode: int, complaint: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(InvalidInput, match=complaint) as refused:
        Secrets.from_file(file)
    assert str(file) in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        Secrets.from_file(tmp_path / "none")
