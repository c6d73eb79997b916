"""Takes calls from the wire: HTTP/1.1 with kept-alive connections, in the engine's own loop.

Plain on a loopback address, else with mutual TLS, and then whoever calls must be a member (or one of
`callers`). A caller that closes its connection has its task cancelled.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from collections.abc import AsyncIterator, Callable, Collection

import msgspec
from aiohttp import web

from engine.errors import InvalidInput
from engine.execution.options import ExecutionSettings
from engine.execution.server import CallServer
from engine.execution.tls import names_in, server_context
from engine.execution.wire import PATH, PATH_FOR_MANY, Reply, decode_batch, decode_request, encode

LOG = logging.getLogger(__name__)

KEEP_SECONDS = 75.0
"""Longer than a client keeps an idle connection, so that it is the client who closes it."""
_STOP_SECONDS = 0.5
_ENVELOPE_BYTES = 4096


class CallListener:
    """`members` are the names that a certificate may bear, `callers` aside."""

    def __init__(
        self, server: CallServer, settings: ExecutionSettings, *, members: Callable[[], Collection[str]]
    ) -> None:
        self._server = server
        self._settings = settings
        self._members = members

    @contextlib.asynccontextmanager
    async def listening(self, address: str) -> AsyncIterator[str]:
        """Listen while the body runs; the URL for /members. `address` is this machine's, where the
        configured one stands for all. Raises `InvalidInput` when it cannot be listened on."""
        settings = self._settings
        app = web.Application(client_max_size=0)  # `_refusal` sees to it
        app.router.add_post(PATH, self._on_call)
        app.router.add_post(PATH_FOR_MANY, self._on_batch)
        runner = web.AppRunner(
            app,
            handler_cancellation=True,
            keepalive_timeout=KEEP_SECONDS,
            access_log=None,
            shutdown_timeout=_STOP_SECONDS,
        )
        context = server_context(settings.files) if settings.files else None
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port, ssl_context=context)
            try:
                await site.start()
            except OSError as error:
                raise InvalidInput(
                    f"calls cannot be taken on {settings.host}:{settings.port}: {error.strerror};"
                    " change [execution] host or port"
                ) from error
            host = address if _unspecified(settings.host) else settings.host
            shown = f"[{host}]" if ":" in host else host
            port = runner.addresses[0][1]
            yield f"{'https' if context else 'http'}://{shown}:{port}"
        finally:
            await runner.cleanup()

    async def _on_call(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        try:
            call = decode_request(await request.read())
        except msgspec.MsgspecError as error:
            return web.Response(status=400, text=f"not a call: {error}")
        return _answer(await self._server.perform(call))

    async def _on_batch(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        try:
            batch = decode_batch(await request.read())
        except msgspec.MsgspecError as error:
            return web.Response(status=400, text=f"not a batch of calls: {error}")
        return _answer(await self._server.perform_all(batch))

    def _refusal(self, request: web.Request) -> web.Response | None:
        if (who := self._stranger(request)) is not None:
            LOG.warning("a call was refused: %s", who)
            return web.Response(status=403, text=who)
        if request.content_type != "application/json":  # what a browser sends unasked is not
            return web.Response(status=415, text="calls are application/json")
        most = self._settings.most_bytes + _ENVELOPE_BYTES
        if request.content_length is None or request.content_length > most:
            return web.Response(status=413, text=f"a call has {most} bytes at most, and says how many")
        return None

    def _stranger(self, request: web.Request) -> str | None:
        """Why whoever calls may not; None for a member."""
        if self._settings.files is None:
            return None
        transport = request.transport
        names = names_in(transport.get_extra_info("peercert") if transport is not None else None)
        known = {name.lower() for name in (*self._members(), *self._settings.callers)}
        if names & known:
            return None
        return (
            f"the certificate names {', '.join(sorted(names)) or 'nobody'}, which is no member of the cluster"
        )


def _answer(reply: Reply | list[Reply]) -> web.Response:
    return web.Response(body=encode(reply), content_type="application/json")


def _unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
