"""Children that end when their parent does, and processes that end at once.

A leash is a tiny program that asks the kernel to kill it when its parent dies
(PR_SET_PDEATHSIG), makes sure the parent is still there, and then becomes the wanted command: the
setting survives exec. No `preexec_fn`, so it is safe in processes that have threads.

The kernel means the parent *thread*: spawn leashed children from the main thread only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def leashed(argv: Sequence[str]) -> list[str]:
    """Wrap `argv` so that the process it starts is killed when the calling process dies."""
    return [sys.executable, "-S", "-E", os.path.abspath(__file__), str(os.getpid()), *argv]


def die_with_parent(parent: int, *, with_signal: int = signal.SIGKILL) -> None:
    """Have the kernel send this process `with_signal` when `parent`, its present parent, dies."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(128 + int(with_signal))


def leave(code: int) -> NoReturn:
    """End this process, in which all is closed, without taking the interpreter apart: with what an engine
    has imported that costs up to a second of a busy processor, and somebody waits for the end."""
    import logging

    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, or None for a process that is gone or a zombie (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # pathlib would double the time that a leash takes
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _main(arguments: list[str]) -> None:
    parent, *argv = arguments
    die_with_parent(int(parent))
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    _main(sys.argv[1:])
