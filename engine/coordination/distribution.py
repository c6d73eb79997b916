"""Finding a ZooKeeper server and a Java that can run it.

`ZOOKEEPER_HOME` (an unpacked release) comes first, then the jars of Debian's libzookeeper-java.
Debian's manifest names no logging backend, so the class path is put together here. What is too old,
missing or only a stub is refused by name, with the remedy.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import NotFound

OLDEST = (3, 6, 0)
"""AddWatch (persistent recursive watches) and MultiRead appeared in 3.6."""

DEBIAN_JARS = Path("/usr/share/java")

# Jar on Debian -> the package that brings it. A server without TLS starts with exactly the needed
# ones (tried one by one with 3.8.0); the others serve TLS and zkCli.
_NEEDED = {
    "zookeeper-jute": "libzookeeper-java",
    "slf4j-api": "libslf4j-java",
    "slf4j-simple": "libslf4j-java",
    "metrics-core": "libdropwizard-metrics-java",
    "snappy-java": "libsnappy-java",
}
_USEFUL = (
    "netty-buffer",
    "netty-codec",
    "netty-common",
    "netty-handler",
    "netty-resolver",
    "netty-transport",
    "netty-transport-native-epoll",
    "netty-transport-native-unix-common",
    "commons-cli",
    "commons-io",
    "jline",
    "jackson-annotations",
    "jackson-core",
    "jackson-databind",
)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A ZooKeeper that can be started: `[java, "-cp", class_path, <class>]`."""

    java: str
    class_path: str
    version: tuple[int, int, int]


def find_zookeeper(
    environ: Mapping[str, str] = os.environ, *, debian_jars: Path = DEBIAN_JARS
) -> Distribution:
    """Find jars and Java. Raises `NotFound` naming what to install."""
    home = environ.get("ZOOKEEPER_HOME")
    jars = _release_jars(Path(home)) if home else _debian_jars(debian_jars)
    main = jars[0]
    version = _version_of(main)
    if version < OLDEST:
        raise NotFound(
            f"ZooKeeper {_dotted(version)} ({main}) is too old: {_dotted(OLDEST)} or newer is needed. "
            "Unpack a newer release and set ZOOKEEPER_HOME to its directory."
        )
    return Distribution(find_java(environ), ":".join(map(str, jars)), version)


def find_java(environ: Mapping[str, str] = os.environ) -> str:
    """The path of a Java that runs. Raises `NotFound` when there is none, or only a stub."""
    remedy = "install one, for example: apt-get install --no-install-recommends default-jre-headless"
    home = environ.get("JAVA_HOME")
    if home and os.access(Path(home, "bin", "java"), os.X_OK):
        java: str | None = str(Path(home, "bin", "java"))
    else:
        java = shutil.which("java", path=environ.get("PATH", os.defpath))
    if java is None:
        raise NotFound(f"no Java was found; {remedy}")
    try:
        answer = subprocess.run(
            [java, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotFound(f"{java} does not run ({error}); {remedy}") from error
    said = answer.stderr + answer.stdout
    if answer.returncode != 0 or not re.search(r'version "\d', said):
        raise NotFound(f"{java} is only a stub (it said: {said.strip()[:200] or 'nothing'}); {remedy}")
    return java


def _release_jars(home: Path) -> list[Path]:
    jars = sorted({*home.glob("lib/*.jar"), *home.glob("*.jar")})
    main = [jar for jar in jars if re.fullmatch(r"zookeeper(-\d[\w.\-]*)?\.jar", jar.name)]
    if not main:
        raise NotFound(
            f"ZOOKEEPER_HOME={home} holds no zookeeper-<version>.jar in lib/; "
            "it should be the directory of an unpacked ZooKeeper release."
        )
    return [main[-1], *(jar for jar in jars if jar not in main)]


def _debian_jars(directory: Path) -> list[Path]:
    main = directory / "zookeeper.jar"
    if not main.exists():
        raise NotFound(
            f"no ZooKeeper was found in {directory}; install it with "
            "apt-get install --no-install-recommends libzookeeper-java, or set ZOOKEEPER_HOME."
        )
    missing = {name: package for name, package in _NEEDED.items() if not (directory / f"{name}.jar").exists()}
    if missing and _version_of(main) >= OLDEST:
        raise NotFound(
            f"ZooKeeper needs {', '.join(f'{name}.jar' for name in missing)}; install with "
            f"apt-get install --no-install-recommends {' '.join(sorted(set(missing.values())))}"
        )
    wanted = [directory / f"{name}.jar" for name in (*_NEEDED, *_USEFUL)]
    return [main, *(jar for jar in wanted if jar.exists())]


def _version_of(jar: Path) -> tuple[int, int, int]:
    """From the names of the file (Debian gives it one with and one without), else its manifest."""
    same = [other for other in jar.parent.glob("zookeeper-*.jar") if other.resolve() == jar.resolve()]
    names = " ".join(path.name for path in (jar, jar.resolve(), *same))
    found = re.search(r"zookeeper-(\d+)\.(\d+)\.(\d+)", names)
    if found is None:
        try:
            with zipfile.ZipFile(jar) as archive:
                manifest = archive.read("META-INF/MANIFEST.MF").decode("utf-8", "replace")
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise NotFound(f"{jar} cannot be read as ZooKeeper's jar: {error}") from error
        found = re.search(r"(?:Bundle|Implementation)-Version: *(\d+)\.(\d+)\.(\d+)", manifest)
    if found is None:
        raise NotFound(f"{jar} does not say which version of ZooKeeper it is; set ZOOKEEPER_HOME.")
    major, minor, patch = (int(part) for part in found.groups())
    return major, minor, patch


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))
