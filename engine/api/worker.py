"""The gunicorn worker of the API: gunicorn's own `asgi` worker, which stops without waiting.

gunicorn's looks once a second whether it is to stop, and then waits for connections to end, among
them streams that never do. This one stops at the signal, and has the app end its streams first.
Named by `engine.api.gunicorn`, whose parent process imports it: it may not import the app.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gunicorn.workers.gasgi import ASGIWorker  # type: ignore[import-untyped]


class EngineWorker(ASGIWorker):  # type: ignore[misc]
    """`notify` is what the worker calls in its loop, each time before it sleeps."""

    _sleeper: asyncio.Task[Any] | None = None

    def notify(self) -> None:
        super().notify()
        self._sleeper = asyncio.current_task(self.loop)

    def handle_exit_signal(self) -> None:
        """SIGTERM. While the worker still starts, its own next look has to do."""
        was_alive = self.alive
        super().handle_exit_signal()
        if was_alive and self._sleeper is not None:
            getattr(self.asgi, "end_streams", _nothing)()
            self._sleeper.cancel()  # its sleep; it goes on with the orderly shutdown


def _nothing() -> None:
    """Of an app that has no streams."""
