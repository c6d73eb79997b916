"""A pretended machine for tools/up and tools/test: which packages it has, which Python, which Java.

The scripts run for real, in dash, with a PATH of nothing but fakes and a few plain tools; each fake
writes its call to a log. No test touches the packages or the virtual environment of this machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SHELL = shutil.which("dash") or "/bin/sh"

# What the scripts may use beside the programs that are faked.
PLAIN_TOOLS = [
    "cat",
    "chmod",
    "cksum",
    "cp",
    "dirname",
    "env",
    "flock",
    "mkdir",
    "mv",
    "rm",
    "sh",
    "tail",
    "touch",
]

PYTHON = """\
#!{shell}
case "$*" in
    *_base_executable*) echo "{path}" ;;
    *version_info*) [ {recent} = yes ] || exit 1 ;;
    *"import ensurepip"*) [ {has_venv} = yes ] || [ -e "{state}/package.python3-venv" ] || exit 1 ;;
    -V) echo "Python 3.9.2" ;;
    "-m venv "*)
        echo "venv $3" >>"{log}"
        mkdir -p "$3/bin"
        cp "{state}/venv-python" "$3/bin/python"
        cp "{state}/venv-python" "$3/bin/engine" ;;
    *) exec "{python}" "$@" ;;
esac
"""

VENV_PYTHON = """\
#!{shell}
case "$0" in
    */engine) echo "engine $*" && exit ;;
    */tox) echo "tox $*" && [ ! -e "{state}/tox-fails" ] && exit || exit 3 ;;
esac
case "$*" in
    "-m pip "*)
        echo "pip $*" >>"{log}"
        if [ -e "{state}/pip-dies" ]; then rm "{state}/pip-dies" && kill -9 $PPID; fi
        if [ -e "{state}/pip-fails" ]; then echo "no such release"; exit 1; fi
        cp "$0" "{venv}/bin/tox" ;;
    *pip*) exit 0 ;;
    *sys.version*) echo "3.11.7 of the environment" ;;
esac
"""

DPKG_QUERY = """\
#!{shell}
for package; do :; done
[ ! -e "{state}/package.$package" ] || printf installed
"""

APT_GET = """\
#!{shell}
echo "apt-get $*" >>"{log}"
[ ! -e "{state}/apt-fails" ] || exit 100
for word; do touch "{state}/package.$word"; done
"""

JAVA = """\
#!{shell}
echo '{says}' >&2
exit {code}
"""

SUDO = """\
#!{shell}
echo "sudo $*" >>"{log}"
[ "$1" != -n ] || shift
[ "$1" = true ] || exec "$@"
"""


class Machine:
    """A project directory and a PATH. By default everything that is needed is there."""

    def __init__(self, directory: Path) -> None:
        self.project = directory / "a project"
        self.state = directory / "state"
        self.programs = directory / "programs"
        self.log = directory / "log"
        self.venv = self.project / ".venv"
        self.environ: dict[str, str] = {}
        for made in (self.project, self.state, self.programs):
            made.mkdir()
        shutil.copytree(ROOT / "tools", self.project / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("bindep.txt", "setup.cfg", "constraints.txt"):
            shutil.copy(ROOT / name, self.project / name)
        for tool in PLAIN_TOOLS:
            (self.programs / tool).symlink_to(shutil.which(tool) or f"/usr/bin/{tool}")
        (self.state / "venv-python").write_text(self._filled(VENV_PYTHON))
        (self.state / "venv-python").chmod(0o755)
        self.has_python()
        self.has_java()
        self.has_dpkg()
        self.runs_as(root=True)
        self.has_packages(*self.wanted_packages())

    def wanted_packages(self) -> list[str]:
        lines = (self.project / "bindep.txt").read_text().splitlines()
        return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]

    def has_packages(self, *names: str) -> None:
        for name in names:
            (self.state / f"package.{name}").touch()

    def lacks_packages(self, *names: str) -> None:
        for name in names:
            (self.state / f"package.{name}").unlink()

    def has_python(self, *, recent: bool = True, has_venv: bool = True) -> None:
        path = self.programs / "python3"
        words = {"recent": _word(recent), "has_venv": _word(has_venv), "path": path, "python": sys.executable}
        self._program("python3", PYTHON, **words)
        # No other Python of this machine may help out.
        self._program("/usr/bin/python3".replace("/", "_"), "#!/bin/sh\nexit 1\n")
        setup = self.project / "tools" / "setup.sh"
        text = setup.read_text().replace(" /usr/bin/python3; do", " _usr_bin_python3; do")
        for place in ("/usr/lib/postgresql", "/etc/postgresql-common"):
            text = text.replace(place, f"{self.state}{place}")
        setup.write_text(text)

    def has_java(self, says: str = 'openjdk version "17.0.15"', code: int = 0) -> None:
        self._program("java", JAVA, says=says, code=code)

    def has_dpkg(self) -> None:
        self._program("dpkg-query", DPKG_QUERY)
        self._program("apt-get", APT_GET)

    def lacks(self, *programs: str) -> None:
        for name in programs:
            (self.programs / name).unlink()

    def has_sudo(self) -> None:
        self._program("sudo", SUDO)

    def runs_as(self, *, root: bool) -> None:
        self._program("id", "#!{shell}\necho " + ("0" if root else "1000") + "\n")

    def run(self, script: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SHELL, str(self.project / "tools" / script), *arguments],
            cwd=cwd or self.project,
            env={"PATH": str(self.programs), "HOME": str(self.state), **self.environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[str]:
        """What the fakes were asked to do since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    def _program(self, name: str, text: str, **values: object) -> None:
        path = self.programs / name
        path.write_text(self._filled(text, **values))
        path.chmod(0o755)

    def _filled(self, text: str, **values: object) -> str:
        values |= {"shell": SHELL, "state": self.state, "log": self.log, "venv": self.venv}
        for name, value in values.items():
            text = text.replace("{" + name + "}", str(value))
        return text


def _word(yes: bool) -> str:
    return "yes" if yes else "no"
