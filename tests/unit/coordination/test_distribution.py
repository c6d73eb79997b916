"""What is found, and how what is missing, too old or only a stub is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from engine.coordination.distribution import find_java, find_zookeeper
from engine.errors import NotFound

NEEDED = ("zookeeper-jute", "slf4j-api", "slf4j-simple", "metrics-core", "snappy-java")


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def java(tmp_path: Path) -> dict[str, str]:
    program(tmp_path / "bin" / "java", "echo 'openjdk version \"17.0.1\"' >&2")
    return {"PATH": str(tmp_path / "bin")}


def release(home: Path, version: str) -> Path:
    (home / "lib").mkdir(parents=True)
    for name in (f"zookeeper-{version}", f"zookeeper-jute-{version}", "netty-all"):
        (home / "lib" / f"{name}.jar").touch()
    return home


def debian(directory: Path, version: str, *, without: str = "") -> Path:
    directory.mkdir()
    for name in ("zookeeper", *NEEDED):
        if name != without:
            (directory / f"{name}.jar").touch()
    (directory / f"zookeeper-{version}.jar").symlink_to("zookeeper.jar")
    return directory


def test_an_unpacked_release_comes_first(tmp_path: Path, java: dict[str, str]) -> None:
    home = release(tmp_path / "zk", "3.9.2")
    found = find_zookeeper(java | {"ZOOKEEPER_HOME": str(home)})
    assert found.version == (3, 9, 2)
    assert found.class_path.split(":")[0].endswith("zookeeper-3.9.2.jar")
    assert len(found.class_path.split(":")) == 3


def test_debians_jars_are_found_with_their_version(tmp_path: Path, java: dict[str, str]) -> None:
    found = find_zookeeper(java, debian_jars=debian(tmp_path / "jars", "3.8.0"))
    assert found.version == (3, 8, 0)
    assert "slf4j-simple.jar" in found.class_path


def test_the_version_may_stand_in_the_manifest(tmp_path: Path, java: dict[str, str]) -> None:
    directory = debian(tmp_path / "jars", "3.8.0")
    (directory / "zookeeper-3.8.0.jar").unlink()
    with zipfile.ZipFile(directory / "zookeeper.jar", "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "Bundle-Version: 3.7.1\n")
    assert find_zookeeper(java, debian_jars=directory).version == (3, 7, 1)


@pytest.mark.parametrize("version", ["3.4.13", "3.5.10"])
def test_a_server_before_3_6_is_refused_by_name(tmp_path: Path, java: dict[str, str], version: str) -> None:
    with pytest.raises(NotFound, match=rf"ZooKeeper {version} .* too old.*ZOOKEEPER_HOME"):
        find_zookeeper(java, debian_jars=debian(tmp_path / "jars", version))
    with pytest.raises(NotFound, match="too old"):
        find_zookeeper(java | {"ZOOKEEPER_HOME": str(release(tmp_path / "zk", version))})


def test_a_missing_server_names_the_package(tmp_path: Path, java: dict[str, str]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="libzookeeper-java"):
        find_zookeeper(java, debian_jars=tmp_path / "empty")


def test_a_home_without_jars_is_refused(tmp_path: Path, java: dict[str, str]) -> None:
    with pytest.raises(NotFound, match="ZOOKEEPER_HOME"):
        find_zookeeper(java | {"ZOOKEEPER_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("jar", "package"), [("slf4j-simple", "libslf4j-java"), ("metrics-core", "libdropwizard-metrics-java")]
)
def test_a_missing_jar_names_its_package(
    tmp_path: Path, java: dict[str, str], jar: str, package: str
) -> None:
    with pytest.raises(NotFound, match=rf"{jar}\.jar.*{package}"):
        find_zookeeper(java, debian_jars=debian(tmp_path / "jars", "3.8.0", without=jar))


@pytest.mark.parametrize(
    "script",
    ["echo 'Unable to locate a Java Runtime.' >&2; exit 1", "exit 0", "echo 'no Java here'"],
)
def test_a_stub_is_no_java(tmp_path: Path, script: str) -> None:
    program(tmp_path / "bin" / "java", script)
    with pytest.raises(NotFound, match=r"only a stub.*default-jre-headless"):
        find_java({"PATH": str(tmp_path / "bin")})


def test_no_java_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no Java was found.*default-jre-headless"):
        find_java({"PATH": str(tmp_path)})


def test_a_java_that_cannot_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bin" / "java"
    path.parent.mkdir()
    path.write_bytes(b"\x7fELF broken")
    path.chmod(0o755)
    with pytest.raises(NotFound, match="does not run"):
        find_java({"PATH": str(tmp_path / "bin")})


def test_java_home_is_used_first(tmp_path: Path, java: dict[str, str]) -> None:
    other = program(tmp_path / "jdk" / "bin" / "java", "echo 'openjdk version \"21\"' >&2")
    assert find_java(java | {"JAVA_HOME": str(tmp_path / "jdk")}) == str(other)
