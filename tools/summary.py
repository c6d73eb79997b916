"""Print what the test environments counted, a line each and then all: the end of `sh tools/test`.

Reads the JUnit files that the tox environments leave in the directory given; fails when there is none.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def counted(results: Path) -> tuple[Counter[str], float]:
    """Tests by outcome, and the seconds they took."""
    found: Counter[str] = Counter()
    seconds = 0.0
    for suite in ElementTree.parse(results).getroot().iter("testsuite"):
        failed, errors, skipped = (int(suite.get(name, 0)) for name in ("failures", "errors", "skipped"))
        passed = int(suite.get("tests", 0)) - failed - errors - skipped
        found.update(failed=failed, errors=errors, passed=passed, skipped=skipped)
        seconds += float(suite.get("time", 0))
    return found, seconds


def line(name: str, found: Counter[str], seconds: float) -> str:
    told = [
        f"{found[outcome]} {outcome}"
        for outcome in ("failed", "errors", "passed", "skipped")
        if found[outcome]
    ]
    return f"{name}: {', '.join(told) or 'no tests'} in {seconds:.0f}s"


def main(directory: Path) -> int:
    total: Counter[str] = Counter()
    total_seconds = 0.0
    files = sorted(directory.glob("*.xml"))
    for results in files:
        found, seconds = counted(results)
        print(line(results.stem, found, seconds))
        total += found
        total_seconds += seconds
    if len(files) > 1:
        print(line("all", total, total_seconds))
    return 0 if files else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
