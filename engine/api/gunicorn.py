"""How gunicorn serves the API: `gunicorn -c etc/engine/gunicorn.conf.py 'engine.api.app:from_environment()'`.

Read by gunicorn's parent process, which opens no connection of its own. Where, with how many
workers and for how long stands in `[api]` of the file that ENGINE_CONFIG_FILE names; gunicorn's own
command line overrides it. Whatever the address came from, the sockets that were really opened are
checked before any worker starts: nobody has to log in yet, so only loopback is served.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import time
from typing import Any

from oslo_config import cfg

from engine.api import options, scoreboard
from engine.api.options import ApiSettings
from engine.api.scoreboard import Scoreboard
from engine.processes import leave

__all__ = [
    "accesslog",
    "bind",
    "control_socket_disable",
    "errorlog",
    "graceful_timeout",
    "keepalive",
    "on_exit",
    "on_starting",
    "post_fork",
    "post_worker_init",
    "preload_app",
    "timeout",
    "when_ready",
    "worker_class",
    "worker_exit",
    "workers",
]

_CLOSING_SECONDS = 3
"""What a worker needs besides: it may still be starting, and it closes its session last."""
_STARTING_SECONDS = 60
"""How long a worker may take until it serves, on a machine with much to do."""


def _settings() -> ApiSettings:
    file = os.environ.get("ENGINE_CONFIG_FILE")
    conf = cfg.ConfigOpts()
    conf.register_opts(options.OPTS, group=options.GROUP)
    try:
        conf([], project="engine", default_config_files=[file] if file else [], default_config_dirs=[])
        return ApiSettings.from_conf(conf)
    except (cfg.Error, ValueError) as error:
        sys.exit(f"engine API: {error}")


_API = _settings()

bind = _API.bind
workers = _API.workers
worker_class = "engine.api.worker.EngineWorker"
preload_app = False  # sessions and connections do not survive a fork
control_socket_disable = True  # it would let whoever reaches the socket steer the server
graceful_timeout = _API.graceful_seconds + _CLOSING_SECONDS
# A worker that stands still is killed after so many seconds: it may be in the middle of a write, and on
# SQLite nobody else writes meanwhile. As long as a ZooKeeper session: its own is over by then.
timeout = 10
keepalive = 75
accesslog = None
errorlog = "-"

_scoreboard: Scoreboard | None = None


def on_starting(server: Any) -> None:
    """Give the workers a place where they count requests together."""
    global _scoreboard
    if scoreboard.VARIABLE not in os.environ:
        _scoreboard = Scoreboard()


def when_ready(server: Any) -> None:
    """Refuse to serve strangers. Called with the sockets open and before the first worker."""
    exposed = [listener for listener in server.LISTENERS if not _only_local(listener.sock)]
    if exposed and not _API.allow_unauthenticated:
        told = ", ".join(str(listener) for listener in exposed)
        server.log.error(
            "refused: %s can be reached from other machines, and nobody has to log in to this API yet. "
            "Bind to 127.0.0.1, or set allow_unauthenticated = true in [api] of ENGINE_CONFIG_FILE.",
            told,
        )
        for listener in server.LISTENERS:
            listener.close()
        on_exit(server)
        sys.exit(1)


def post_fork(server: Any, worker: Any) -> None:
    """A worker that starts does not move yet, and is not to be killed for that. Called in the worker."""
    ahead = time.monotonic() + _STARTING_SECONDS
    os.utime(worker.tmp.fileno(), (ahead, ahead))  # as its first sign of life will be


def post_worker_init(worker: Any) -> None:
    """Let a worker wait less for its clients than the parent waits for the worker.

    gunicorn has one setting for both, and kills a worker that has waited for idle connections just
    before it would close its ZooKeeper session. Called in the worker, whose settings are a copy.
    """
    worker.cfg.set("graceful_timeout", _API.graceful_seconds)


def worker_exit(server: Any, worker: Any) -> None:
    """A worker that has stopped in order ends at once. Called in the worker, last; also in the parent."""
    ending = sys.exception()
    if worker.pid == os.getpid() and isinstance(ending, SystemExit) and not ending.code:
        leave(0)


def on_exit(server: Any) -> None:
    """Remove what `on_starting` made."""
    if _scoreboard is not None:
        _scoreboard.remove()


def _only_local(listener: socket.socket) -> bool:
    """Whether only this machine's own processes can reach the socket."""
    if listener.family == socket.AF_UNIX:
        return True
    address = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
