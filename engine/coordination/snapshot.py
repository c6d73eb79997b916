"""One blocking look at a subtree, for programs that have no loop yet: configuration is read this way.

Opens a short session, makes sure that the server has seen what was committed before (`sync`),
reads level by level with pipelined requests, and closes the session. Writes nothing, watches nothing,
leaves no thread: it may run before a fork.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import AuthFailedError, KazooException, NoAuthError, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError, SequentialThreadingHandler

from engine.coordination.settings import SessionSettings
from engine.errors import InvalidInput, NotFound, Unavailable

_BATCH = 500


def read_tree(settings: SessionSettings, path: str) -> dict[str, bytes]:
    """The data of every node below `path`, by relative path (`group/option`), as of one moment or later.

    Raises `NotFound` when `path` does not exist, `Unavailable` when no server has answered all of it
    within `settings.connect_seconds`, `InvalidInput` when this client may not read it.
    """
    deadline = time.monotonic() + settings.connect_seconds
    client = _client(settings)
    try:
        client.start(timeout=settings.connect_seconds)
        return _read(client, path, deadline)
    except (NoAuthError, AuthFailedError) as error:
        raise InvalidInput(
            f"ZooKeeper at {settings.hosts} does not let us read {path}: check the digest"
        ) from error
    except (KazooException, KazooTimeoutError) as error:
        raise Unavailable(
            f"ZooKeeper at {settings.hosts} did not answer within {settings.connect_seconds:g} s"
            f" ({type(error).__name__})"
        ) from error
    finally:
        client.stop()
        client.close()


def _client(settings: SessionSettings) -> KazooClient:
    tls = settings.tls
    if "/" in settings.hosts:
        raise InvalidInput("the ZooKeeper hosts may not carry a chroot; set the cluster's name instead")
    try:
        return KazooClient(
            hosts=settings.hosts,
            # kazoo waits this long for one server's handshake, also while it is being stopped.
            timeout=settings.connect_seconds,
            handler=SequentialThreadingHandler(),
            auth_data=[("digest", settings.digest)] if settings.digest else None,
            use_ssl=tls is not None,
            ca=tls.ca_file if tls else None,
            certfile=tls.cert_file if tls else None,
            keyfile=tls.key_file if tls else None,
            verify_certs=tls.verify if tls else True,
            check_hostname=tls.verify if tls else True,
        )
    except ValueError as error:
        raise InvalidInput(f"{settings.hosts!r} is no list of ZooKeeper servers: {error}") from error


def _read(client: KazooClient, path: str, deadline: float) -> dict[str, bytes]:
    try:
        _answers([client.sync_async(path)], deadline)
        level = [
            (name, f"{path}/{name}") for name in _answers([client.get_children_async(path)], deadline)[0]
        ]
    except NoNodeError:
        raise NotFound(f"there is no {path} in ZooKeeper") from None
    found: dict[str, bytes] = {}
    while level:
        batch, level = level[:_BATCH], level[_BATCH:]
        nodes = _existing([client.get_async(full) for _, full in batch], deadline)
        lists = _existing([client.get_children_async(full) for _, full in batch], deadline)
        for (name, full), node, children in zip(batch, nodes, lists, strict=True):
            if node is not None:
                found[name] = node[0] or b""
            level += [(f"{name}/{child}", f"{full}/{child}") for child in children or ()]
    return found


def _answers(requests: Sequence[Any], deadline: float) -> list[Any]:
    return [request.get(timeout=max(0.001, deadline - time.monotonic())) for request in requests]


def _existing(requests: Sequence[Any], deadline: float) -> list[Any]:
    """As `_answers`, with None for a node that went away since it was listed."""
    answers: list[Any] = []
    for request in requests:
        try:
            answers += _answers([request], deadline)
        except NoNodeError:
            answers.append(None)
    return answers
