"""Tokens: 64-bit numbers that only grow, also over a wiped ZooKeeper.

Leaders and holders of locks carry one, made of the tree's number as the database counts it and of the
zxid that made the node they stand on.
"""

from __future__ import annotations


def token_of(incarnation: int, czxid: int) -> int:
    """Later holders have greater tokens: `incarnation << 48 | czxid`."""
    if not 0 <= czxid < 1 << 48:
        raise ValueError(f"czxid {czxid} does not fit into 48 bits")
    return incarnation << 48 | czxid
