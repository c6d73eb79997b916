"""A fence: what a holder shows to be let act. Its token is greater than that of every earlier holder.

`guard()` is the condition for a ZooKeeper transaction, which nobody after this holder can satisfy: the
nonce is never used again. `check()` stands before every other side effect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping

from engine.coordination.operations import Check
from engine.errors import AuthorityLost
from engine.locks.keys import Key, Mode
from engine.plugin import Authority


class Fence:
    """Of one hold of this session. `lost` is set once: when the session's authority ends, or the hold
    was removed by force; `why` then says which."""

    def __init__(
        self,
        authority: Authority,
        path: str,
        nonce: str,
        modes: Mapping[Key, Mode],
        token: int,
        *,
        version: int,
        handed: frozenset[Key],
    ) -> None:
        """`version` of the hold, and those of its keys that were `handed` to it: for its release."""
        self._authority = authority
        self._path = path
        self.nonce = nonce
        self.modes = modes
        self.token = token
        self.version = version
        self.handed = handed
        self.lost = asyncio.Event()
        self.why = ""
        self._body: asyncio.Task[object] | None = None
        self._cut = False

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset(self.modes)

    def guard(self) -> Check:
        """For the transaction that writes what the lock protects."""
        return Check(self._path)

    def check(self) -> None:
        """Return if the lock is held at this instant; else raise `AuthorityLost`."""
        if self.lost.is_set():
            raise AuthorityLost(f"the lock on {', '.join(sorted(self.modes))} is over: {self.why}")
        self._authority.check()

    def remaining_seconds(self) -> float:
        return 0.0 if self.lost.is_set() else self._authority.remaining_seconds()

    def end(self, why: str) -> None:
        """Over for good; the first reason stays."""
        if not self.lost.is_set():
            self.why = why
            self.lost.set()
            if self._body is not None:
                self._cut = True
                self._body.cancel()

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Cancel the body when the lock is lost, and raise `AuthorityLost` in its place.

        As `authority.cancelled_by`, without a task: a lock is held for a millisecond.
        """
        body = self._body = asyncio.current_task()
        assert body is not None
        try:
            yield
        except asyncio.CancelledError:
            # More requests than ours mean that somebody else cancels the body too: that one wins.
            if self._cut and body.uncancel() == 0:
                raise AuthorityLost(f"the lock is over: {self.why}") from None
            raise
        except BaseException:
            if self._cut:
                body.uncancel()
            raise
        finally:
            self._body = None
        if self._cut:  # the body ended just before the cancellation could reach it
            body.uncancel()
            raise AuthorityLost(f"the lock is over: {self.why}")
