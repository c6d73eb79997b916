"""`engine jobs`: what is run when. Listed, added, changed, paused, resumed, run now, and looked back on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from engine.cli.actions import path_to
from engine.cli.client import add_api_options, open_api
from engine.cli.columns import local_time, one, table

COLUMNS = ("name", "group", "when", "does", "next", "last", "paused")
RUN_COLUMNS = ("planned_at", "state", "cause", "attempt", "engine", "started_at", "seconds", "error")
TIMES = ("next", "start", "end", "at", "created_at")
RUN_TIMES = ("planned_at", "started_at", "ended_at")
MISFIRES = ("fire_once", "fire_all", "skip")


class JobsList(Lister):
    """List the jobs."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("--group", help="only the jobs of this group")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            jobs = list(api.pages("/v1/jobs", "jobs", params={"group": parsed_args.group}))
        rows = [
            {**job, "when": _when(job), "does": _does(job), "last": (job["last"] or {}).get("state")}
            for job in jobs
        ]
        return table(rows, COLUMNS, output=parsed_args.formatter, times=TIMES)


class JobsShow(ShowOne):
    """Show one job, and when it runs next."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("job", help="name or id of the job")
        parser.add_argument("--times", type=int, default=5, metavar="N", help="how many of its next times")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            job = api.get(path_to("jobs", parsed_args.job), {"times": parsed_args.times})
        return one(_shown(job, parsed_args.formatter), output=parsed_args.formatter, times=TIMES)


def _add_when(parser: argparse.ArgumentParser) -> None:
    """The options that say when a job runs."""
    when = parser.add_mutually_exclusive_group()
    when.add_argument(
        "--cron", metavar="'M H D MON DOW'", help="5 fields, 6 with seconds in front, 7 with years behind"
    )
    when.add_argument("--every", metavar="DURATION", help="like 10s, 5m, 1.5h, 1d")
    when.add_argument("--at", metavar="TIME", help="once: ISO 8601 with a zone, or now")
    parser.add_argument("--zone", help="time zone of --cron (default: UTC)")
    parser.add_argument("--start", metavar="TIME", help="not before")
    parser.add_argument("--end", metavar="TIME", help="not after")
    parser.add_argument("--jitter", metavar="DURATION", help="run up to so much later")


def _add_what(parser: argparse.ArgumentParser) -> None:
    """The options that say what it does, and how."""
    does = parser.add_mutually_exclusive_group()
    does.add_argument("--task", metavar="NAME", help="the task that it runs")
    does.add_argument("--command", dest="job_command", metavar="TYPE", help="the command that it submits")
    parser.add_argument("--arguments", type=_object, metavar="JSON", help="of the task or the command")
    parser.add_argument("--group", help="a name that several jobs share (default: default)")
    parser.add_argument("--misfire", choices=MISFIRES, help="of missed times (default: fire_once)")
    parser.add_argument("--grace", metavar="DURATION", help="late is not missed yet (default: 60s)")
    parser.add_argument(
        "--overlap", action=argparse.BooleanOptionalAction, default=None, help="runs may overlap"
    )
    parser.add_argument("--timeout", metavar="DURATION", help="how long a run may take")
    parser.add_argument("--retries", type=int, metavar="N", help="tries after a failed one (default: 0)")
    parser.add_argument("--retry-pause", metavar="DURATION", help="before the first (default: 10s)")
    parser.add_argument("--recovery", choices=("rerun", "fail"), help="when its engine dies")
    parser.add_argument("--keep", type=int, metavar="N", help="ended runs kept (default: 100)")
    add_api_options(parser)


def _asked(parsed: argparse.Namespace) -> dict[str, Any]:
    names = (
        *("cron", "every", "at", "zone", "start", "end", "jitter", "task", "arguments", "group"),
        *("misfire", "grace", "overlap", "timeout", "retries", "retry_pause", "recovery", "keep"),
    )
    given = {name: getattr(parsed, name, None) for name in names}
    given["command"] = getattr(parsed, "job_command", None)
    return {name: value for name, value in given.items() if value is not None}


class JobsAdd(ShowOne):
    """Add a job: when it runs, and what it does then."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", help="name of the job, unique")
        _add_when(parser)
        _add_what(parser)
        parser.add_argument("--paused", action="store_true", help="it does not run until it is resumed")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        body = {"name": parsed_args.name, "paused": parsed_args.paused, **_asked(parsed_args)}
        with open_api(parsed_args) as api:
            job = api.post("/v1/jobs", body)
        return one(_shown(job, parsed_args.formatter), output=parsed_args.formatter, times=TIMES)


class JobsSet(ShowOne):
    """Change a job; what is not given stays as it is."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("job", help="name or id of the job")
        parser.add_argument("--name", help="its new name")
        _add_when(parser)
        _add_what(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        name = {"name": parsed_args.name} if parsed_args.name else {}
        with open_api(parsed_args) as api:
            job = api.patch(path_to("jobs", parsed_args.job), {**name, **_asked(parsed_args)})
        return one(_shown(job, parsed_args.formatter), output=parsed_args.formatter, times=TIMES)


class JobsPreview(Lister):
    """Show when a job would run, without adding it."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_when(parser)
        parser.add_argument("--times", type=int, default=10, metavar="N", help="how many (default: 10)")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            found = api.post(f"/v1/job-preview?times={parsed_args.times}", _asked(parsed_args))
        rows = [{"time": time, "utc": time} for time in found["times"]]
        return table(rows, ("time", "utc"), output=parsed_args.formatter, times=("time",))


class _Pausing(Lister):
    action = ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("job", nargs="?", help="name or id of the job")
        which.add_argument("--group", help="all jobs of this group")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            if parsed_args.group:
                path = f"/v1/job-groups/{quote(parsed_args.group, safe='')}/{self.action}"
                jobs = api.post(path, {})["jobs"]
            else:
                jobs = [api.post(path_to("jobs", parsed_args.job, self.action), {})]
        columns = ("name", "group", "paused", "next")
        return table(jobs, columns, output=parsed_args.formatter, times=TIMES)


class JobsPause(_Pausing):
    """Pause a job, or all of a group. What is running goes on."""

    action = "pause"


class JobsResume(_Pausing):
    """Resume a job, or all of a group, with the next planned time."""

    action = "resume"


class JobsRun(ShowOne):
    """Run a job now, beside its schedule."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("job", help="name or id of the job")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with open_api(parsed_args) as api:
            run = api.post(path_to("jobs", parsed_args.job, "run"), {})
        shown = {name: run[name] for name in ("job", "planned_at", "state", "cause")}
        return one(shown, output=parsed_args.formatter, times=RUN_TIMES)


class JobsHistory(Lister):
    """List the runs of a job, the latest first."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(print_empty=True)
        parser.add_argument("job", help="name or id of the job")
        parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many (default: 20)")
        parser.add_argument("--state", action="append", help="only runs in this state; may be repeated")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        path = path_to("jobs", parsed_args.job, "runs")
        with open_api(parsed_args) as api:
            asked = {"state": parsed_args.state}
            runs = list(api.pages(path, "runs", limit=parsed_args.limit, params=asked))
        return table(runs, RUN_COLUMNS, output=parsed_args.formatter, times=RUN_TIMES)


class JobsRemove(Command):
    """Remove jobs, with their history. A run that has not ended goes on."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("job", nargs="+", help="name or id of the job")
        add_api_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with open_api(parsed_args) as api:
            # All are found before the first is removed, so that a typing error removes nothing.
            for job in [api.get(path_to("jobs", called)) for called in parsed_args.job]:
                api.delete(path_to("jobs", job["id"]))
                self.app.stdout.write(f"removed {job['name']} ({job['id']})\n")


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError('must be a JSON object, like {"minutes": 5}')
    return found


def _when(job: Mapping[str, Any]) -> str:
    if job["cron"]:
        return f"{job['cron']} {job['zone']}"
    return f"every {job['every']:g}s" if job["every"] else f"at {local_time(job['at'])}"


def _does(job: Mapping[str, Any]) -> str:
    return f"task {job['task']}" if job["task"] else f"command {job['command']}"


def _shown(job: Mapping[str, Any], output: str) -> dict[str, Any]:
    """In a table the times one a line and the last run in short; for programs as it came."""
    if output != "table":
        return dict(job)
    last = job.get("last")
    told = f"{last['state']} {local_time(last['planned_at'])} {last['error']}".strip() if last else None
    times = "\n".join(local_time(time) for time in job.get("times") or [])
    shown = {**job, "times": times, "last": told}
    # What was not asked for says nothing: a job has some twenty properties.
    return {name: value for name, value in shown.items() if value not in (None, "", {}, [])}
