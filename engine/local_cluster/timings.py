"""The timings under which `engine demo` runs: shorter than the defaults, and said aloud.

A demo must be over in three minutes, so what waits for minutes by default waits for seconds here. Each
value is an option that a real deployment could set alike; nothing else about the engines differs.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine import options
from engine.local_cluster.layout import Layout

TICK_OF_POLLS_SECONDS = 1.0
PERIOD_SECONDS = 3.0
"""The demo asks hosts oftener than the defaults (3 and 15 s) do, so that a lost poll shows at once."""

OVERRIDES: Mapping[str, Mapping[str, str]] = {
    "hosts": {
        "tick_seconds": f"{TICK_OF_POLLS_SECONDS:g}",
        "statistics_seconds": f"{PERIOD_SECONDS:g}",
        "grace_seconds": "4",
        "grace_vm_seconds": "0",
    },
    # Longer than anything can be on its way on this machine.
    "commands": {"quarantine_seconds": "5"},
    # An answer that was lost on purpose is missed after this long.
    "driver_vdsm": {"call_timeout": "3"},
    "singleton_host_treatment": {"quiet_seconds": "10", "interval_seconds": "0.5", "reach_seconds": "3"},
}


def demo_layout(*, hosts: int, tls: bool) -> Layout:
    """What `engine demo` runs: free ports, one worker of the API, and these timings."""
    return Layout(
        engines=3,
        hosts=hosts,
        api_port=0,
        zk_port=0,
        host_port=0,
        api_workers=1,
        tls=tls,
        overrides=OVERRIDES,
    )


def told(layout: Layout) -> list[str]:
    """What is overridden: `group.option value (default)`, one each."""
    defaults = {
        (group, option.dest): option.default for group, listed in options.list_opts() for option in listed
    }
    lines = [f"session {layout.session_seconds:g} s"]
    for group, values in layout.overrides.items():
        for name, value in values.items():
            default = defaults.get((group, name))
            usual = (
                "computed" if default is None else f"{default:g}" if isinstance(default, float) else default
            )
            lines.append(f"{group}.{name} {value} ({usual})")
    return lines
