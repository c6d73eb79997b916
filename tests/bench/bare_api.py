"""The peers of `bench_api`: bare Falcon ASGI responders that do the same SELECT, and nothing else.

No validation, errors, ids or metrics; the row is sent as orjson makes it. `stock` reads through
SQLAlchemy's aiosqlite driver as it comes, `tuned` through this project's (one trip to the driver's
thread a statement), which leaves the API's own work as the difference.
"""

from __future__ import annotations

import os

import orjson
import sqlalchemy as sa
from falcon.asgi import App, Request, Response
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from engine.db.database import open_engine
from engine.db.tables import host

_QUERY = sa.select(host).where(host.c.id == sa.bindparam("host_id"))


class Bare:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def on_get(self, request: Request, response: Response, host_id: str) -> None:
        async with self._engine.connect() as connection:
            row = (await connection.execute(_QUERY, {"host_id": host_id})).mappings().one()
        response.data = orjson.dumps(dict(row), option=orjson.OPT_NON_STR_KEYS)


def stock() -> App[Request, Response]:
    """For gunicorn; BENCH_DATABASE_URL names the database."""
    return _app(create_async_engine(os.environ["BENCH_DATABASE_URL"]))


def tuned() -> App[Request, Response]:
    """For gunicorn; BENCH_DATABASE_URL names the database."""
    return _app(open_engine(os.environ["BENCH_DATABASE_URL"]))


def _app(engine: AsyncEngine) -> App[Request, Response]:
    app = App()
    app.add_route("/v1/hosts/{host_id}", Bare(engine))
    return app
