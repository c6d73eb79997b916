"""Names of maps and of their keys, and how a key is spelt as a node of ZooKeeper. Pure.

Keys stay readable in zkCli: only what ZooKeeper does not take, and `%`, is written as in URLs.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote, unquote

from engine.errors import InvalidInput

BIRTHS = "%births"
"""A node beside the entries that no key is spelt like."""
MOST_KEY_BYTES = 250
_MAP = re.compile(r"[a-z][a-z0-9_]{0,62}")
_SPECIAL = {".": "%2E", "..": "%2E."}


def checked_map(name: str) -> str:
    """`name` if a map may be called so, else `InvalidInput`."""
    if not _MAP.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot be the name of a map",
            fields={"name": "lower-case letters, digits and `_`, a letter first, at most 63"},
        )
    return name


@lru_cache(maxsize=65536)
def node_of(key: str) -> str:
    """The node's name. Raises `InvalidInput` for what cannot be a key."""
    if not isinstance(key, str) or not key:
        raise _bad(key, "is a string of at least one character")
    try:
        name = _SPECIAL.get(key) or "".join(map(_spelt, key))
    except UnicodeEncodeError:
        raise _bad(key, "is made of whole characters") from None
    if len(name.encode()) > MOST_KEY_BYTES:
        raise _bad(key, f"has at most {MOST_KEY_BYTES} bytes as a node's name")
    return name


def key_of(node: str) -> str:
    """The key that `node_of` spelt so."""
    return unquote(node) if "%" in node else node


def _spelt(character: str) -> str:
    # https://zookeeper.apache.org/doc/current/zookeeperProgrammers.html#ch_zkDataModel
    number = ord(character)
    taken = 0x20 <= number < 0x7F or 0x9F < number < 0xD800 or 0xF8FF < number < 0xFFF0
    return character if taken and character not in "/%" else quote(character, safe="")


def _bad(key: object, what: str) -> InvalidInput:
    return InvalidInput(f"{str(key)[:60]!r} cannot be a key of a map: a key {what}", fields={"key": what})
