"""Jobs of plugins, brought in line with what is installed: added, changed, removed; people's stay.

Run once by each engine that starts, and safe beside others that do the same: a name is unique, and a change
names the version that it was made from. Whether a job is paused is the people's, and is kept.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from engine.db.errors import Duplicate
from engine.errors import Conflict, EngineError, InvalidInput, NotFound
from engine.plugin import CONTRACT_VERSION, Job, ShardId
from engine.scheduler.jobs.specification import Specification, document
from engine.scheduler.jobs.store import JobStore
from engine.scheduler.records import Origin, Schedule

LOG = logging.getLogger(__name__)

NAMESPACE = "engine.jobs"
_MOST = 100_000


def declared_jobs(found: Iterable[EntryPoint] | None = None) -> dict[str, Specification]:
    """The jobs of the installed plugins, by name; one that is not usable is left out, loudly."""
    jobs: dict[str, Specification] = {}
    offered = list(entry_points(group=NAMESPACE) if found is None else found)
    claims = Counter(entry_point.name for entry_point in offered)
    for entry_point in sorted(offered, key=lambda each: each.name):
        name = entry_point.name
        try:
            declared = entry_point.load()
            if not isinstance(declared, Job):
                raise InvalidInput(f"{entry_point.value} is no Job")
            if declared.contract != CONTRACT_VERSION:
                raise InvalidInput(f"it is written for contract {declared.contract}")
            if claims[name] > 1:
                raise InvalidInput("it is offered more than once: none of them is used")
            jobs[name] = Specification.parse({"name": name, **_fields(declared)})
        except InvalidInput as error:
            LOG.error("job %s: %s", name, error)
        except (Exception, SystemExit):
            LOG.exception("job %s cannot be imported", name)
    return jobs


def _fields(declared: Job) -> dict[str, Any]:
    values = {field.name: getattr(declared, field.name) for field in dataclasses.fields(declared)}
    return {**values, "arguments": dict(declared.arguments)}


async def reconcile(
    store: JobStore,
    declared: Mapping[str, Specification],
    *,
    shard_of: Callable[[str], ShardId],
    bump: Callable[[ShardId], Awaitable[None]],
) -> None:
    """Make the plugins' jobs what is declared. Raises `Unavailable`."""
    present = {job.name: job for job in await store.page(limit=_MOST, origin=Origin.PLUGIN)}
    for name, wanted in declared.items():
        changed = await _bring_in_line(store, present.get(name), wanted, shard_of)
        if changed is not None:
            await _tell(bump, changed.shard)
    for name in present.keys() - declared.keys():
        try:
            await store.remove(present[name])
        except NotFound:
            continue  # another engine was first
        LOG.info("job=%s is declared no more: removed", name)
        await _tell(bump, present[name].shard)


async def _bring_in_line(
    store: JobStore,
    present: Schedule | None,
    wanted: Specification,
    shard_of: Callable[[str], ShardId],
) -> Schedule | None:
    """The job, if it was added or changed."""
    now = await store.now()
    try:
        if present is None:
            job = wanted.build(now=now, shard_of=shard_of, origin=Origin.PLUGIN)
            await store.insert(job)
            LOG.info("job=%s of a plugin was added", job.name)
            return job
        wanted = dataclasses.replace(wanted, paused=present.paused)
        # Built as if it were new: where it then is what it is, nothing is to be done.
        job = wanted.build(now=now, shard_of=shard_of, origin=Origin.PLUGIN, replaces=present)
        if document(job) == document(present):
            return None
        await store.update(job)
        LOG.info("job=%s of a plugin was changed", job.name)
        return job
    except Duplicate:
        LOG.warning("job=%s of a plugin: its name is taken by another job", wanted.name)
    except InvalidInput as error:
        if present is None or present.next_fire_at is not None:
            LOG.warning("job=%s of a plugin: %s", wanted.name, error)
    except Conflict:
        LOG.debug("job=%s was changed by another engine meanwhile", wanted.name)
    return None


async def _tell(bump: Callable[[ShardId], Awaitable[None]], shard: ShardId) -> None:
    try:
        await bump(shard)
    except EngineError as error:
        LOG.debug("shard %s was not told of a job: %s", shard, error)
