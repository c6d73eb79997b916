"""`engine jobs` against a real API (no engine is there, so nothing runs)."""

from __future__ import annotations

from tests.contract.cli.conftest import Engine

REFRESH = ("--command", "refresh_host", "--arguments", '{"host_id": "h1"}')


def test_a_job_is_added_changed_paused_run_and_removed(engine: Engine) -> None:
    added = engine(
        "jobs", "add", "tidy", "--cron", "30 2 * * *", "--zone", "Europe/Berlin", *REFRESH, "-f", "json"
    ).json()
    assert (added["cron"], added["zone"], added["paused"]) == ("30 2 * * *", "Europe/Berlin", False)
    changed = engine("jobs", "set", "tidy", "--every", "90s", "--overlap", "--keep", "7", "-f", "json").json()
    assert (changed["every"], changed["cron"], changed["overlap"], changed["keep"]) == (90.0, None, True, 7)
    assert len(engine("jobs", "show", "tidy", "--times", "3", "-f", "json").json()["times"]) == 3
    (paused,) = engine("jobs", "pause", "tidy", "-f", "json").json()
    assert paused["paused"] is True
    (resumed,) = engine("jobs", "resume", "--group", "default", "-f", "json").json()
    assert resumed["paused"] is False
    assert engine("jobs", "run", "tidy", "-f", "json").json()["state"] == "queued"
    (run,) = engine("jobs", "history", "tidy", "-f", "json").json()
    assert (run["state"], run["cause"]) == ("queued", "request")
    table = engine("jobs", "list")
    assert "every 90s" in table.out
    assert "command refresh_host" in table.out
    removed = engine("jobs", "remove", "tidy")
    assert removed.out == f"removed tidy ({added['id']})\n"
    assert engine("jobs", "show", "tidy").code == 4


def test_a_bad_expression_is_told_with_its_place(engine: Engine) -> None:
    run = engine("jobs", "add", "bad", "--cron", "0 0 30 2 *", *REFRESH)
    assert run.code != 0
    assert "at column 5: no such month has a day 30" in run.err
    assert "Traceback" not in run.err


def test_a_preview_shows_times_and_adds_nothing(engine: Engine) -> None:
    run = engine("jobs", "preview", "--cron", "0 0 1 1 *", "--times", "3", "-f", "json")
    assert [row["utc"][4:] for row in run.json()] == ["-01-01T00:00:00Z"] * 3
    assert engine("jobs", "list", "-f", "json").json() == []


def test_arguments_that_are_no_object_are_refused_before_anything_is_asked(engine: Engine) -> None:
    run = engine("jobs", "add", "bad", "--at", "now", "--task", "x", "--arguments", "[1]")
    assert run.code == 2
    assert "must be a JSON object" in run.err
