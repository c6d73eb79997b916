"""What `engine demo` says in the end: nothing but one sentence when something was wrong."""

from __future__ import annotations

from engine.cli.demo import wrong_in
from engine.local_cluster.judgement import VmVerdict
from engine.local_cluster.result import Result


def test_nothing_is_wrong_where_nothing_failed() -> None:
    assert wrong_in([Result("SIGKILL", "engine-1")], VmVerdict(vms=50)) == ""


def test_the_first_failure_is_told_with_its_step_and_how_many_follow() -> None:
    failed = Result("SIGKILL", "engine-1", failures=["a host was unowned for 9 s"])
    verdict = VmVerdict(doubles=["VM demo-01 ran on two hosts"], lost=["demo-02 has not ended"])
    assert wrong_in([failed], VmVerdict()) == "SIGKILL: a host was unowned for 9 s"
    assert wrong_in([], verdict) == "VM demo-01 ran on two hosts (and 1 more, see above)"
    assert wrong_in([failed], verdict) == "SIGKILL: a host was unowned for 9 s (and 2 more, see above)"


def test_a_demo_that_did_not_come_to_its_verdict_has_failed() -> None:
    assert wrong_in([Result("SIGKILL", "engine-1")], None) == "it ended before the VMs were judged"
