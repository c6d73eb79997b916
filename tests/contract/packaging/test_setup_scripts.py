"""tools/up and tools/test: what they install, what they refuse, and that they repair their own work."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.contract.packaging.machine import ROOT, SHELL, Machine

SCRIPTS = ("tools/up", "tools/test", "tools/setup.sh", ".ci/run")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def packages_of(calls: list[str]) -> list[str]:
    """The words after the options of the one `apt-get install`."""
    (line,) = [call for call in calls if " install " in call and call.startswith("apt-get")]
    assert "--no-install-recommends -y" in line
    return [word for word in line.partition(" install ")[2].split() if not word.startswith("-")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_plain_posix_shell(script: str) -> None:
    subprocess.run([SHELL, "-n", ROOT / script], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    done = subprocess.run(
        ["shellcheck", "-x", *SCRIPTS], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.stdout == ""


def test_a_second_run_calls_no_package_manager_and_no_pip(machine: Machine) -> None:
    assert machine.run("up").returncode == 0
    assert [call.split()[0] for call in machine.calls()] == ["venv", "pip"]
    again = machine.run("up", "--hosts", "3", "--help")
    assert (again.returncode, again.stderr, machine.calls()) == (0, "", [])
    assert again.stdout == "engine up --hosts 3 --help\n"


def test_it_works_from_any_directory(machine: Machine, tmp_path: Path) -> None:
    done = machine.run("up", "a b", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "engine up a b\n")


def test_missing_packages_are_named_then_installed_without_questions(machine: Machine) -> None:
    machine.lacks_packages("libzookeeper-java", "libnetty-java")
    done = machine.run("up")
    calls = machine.calls()
    assert done.returncode == 0
    assert "libzookeeper-java libnetty-java" in done.stderr
    assert calls[0].startswith("apt-get update")
    assert packages_of(calls) == ["libzookeeper-java", "libnetty-java"]


def test_without_root_and_without_sudo_the_exact_line_is_printed(machine: Machine) -> None:
    machine.lacks_packages("libzookeeper-java")
    machine.runs_as(root=False)
    done = machine.run("up")
    assert done.returncode == 1
    line = "apt-get update && apt-get install --no-install-recommends -y libzookeeper-java"
    assert f"    {line}\n" in done.stderr
    assert machine.calls() == []


def test_sudo_is_used_when_it_asks_no_password(machine: Machine) -> None:
    machine.lacks_packages("libzookeeper-java")
    machine.runs_as(root=False)
    machine.has_sudo()
    assert machine.run("up").returncode == 0
    calls = machine.calls()
    assert packages_of(calls) == ["libzookeeper-java"]
    installs = [call for call in calls if call.startswith("sudo") and " install " in call]
    assert installs[0].startswith("sudo -n env DEBIAN_FRONTEND=noninteractive apt-get")


def test_a_failed_installation_of_packages_ends_the_script(machine: Machine) -> None:
    machine.lacks_packages("libzookeeper-java")
    (machine.state / "apt-fails").touch()
    done = machine.run("up")
    assert done.returncode == 1
    assert "apt-get install --no-install-recommends -y libzookeeper-java" in done.stderr
    assert not machine.venv.exists()


def test_a_python_that_is_too_old_is_refused_by_name_before_anything_is_installed(machine: Machine) -> None:
    machine.has_python(recent=False)
    machine.lacks_packages("libzookeeper-java")
    done = machine.run("up")
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed (here: Python 3.9.2)" in done.stderr
    assert "python3.11-venv" in done.stderr
    assert machine.calls() == []


def test_a_python_without_ensurepip_gets_its_package(machine: Machine) -> None:
    machine.has_python(has_venv=False)
    machine.lacks_packages("python3-venv")
    assert machine.run("up").returncode == 0
    assert packages_of(machine.calls()) == ["python3-venv"]


def test_what_works_without_its_package_is_not_installed(machine: Machine) -> None:
    machine.lacks_packages("python3-venv", "default-jre-headless")
    assert machine.run("up").returncode == 0
    assert not any("apt-get" in call for call in machine.calls())


@pytest.mark.parametrize(("says", "code"), [("No Java runtime present, requesting install.", 1), ("", 0)])
def test_a_stub_of_a_java_is_refused_by_name_with_the_remedy(machine: Machine, says: str, code: int) -> None:
    machine.has_java(says, code)
    done = machine.run("up")
    assert done.returncode == 1
    assert f"{machine.programs}/java is not a working Java" in done.stderr
    assert "default-jre-headless" in done.stderr


def test_on_a_system_without_dpkg_it_says_what_is_needed(machine: Machine) -> None:
    machine.lacks("dpkg-query", "apt-get")
    done = machine.run("up")
    assert done.returncode == 1
    assert "ZOOKEEPER_HOME is not set" in done.stderr
    assert "Python 3.11" in done.stderr
    machine.environ["ZOOKEEPER_HOME"] = str(machine.state)
    assert f"ZOOKEEPER_HOME={machine.state} holds no" in machine.run("up").stderr


def test_an_unpacked_zookeeper_release_replaces_the_packages(machine: Machine) -> None:
    release = machine.state / "apache-zookeeper-3.9.3-bin"
    (release / "lib").mkdir(parents=True)
    (release / "lib" / "zookeeper-3.9.3.jar").touch()
    machine.environ["ZOOKEEPER_HOME"] = str(release)
    machine.lacks_packages("libzookeeper-java", "libnetty-java")
    assert machine.run("up").returncode == 0
    machine.lacks("dpkg-query", "apt-get")
    assert machine.run("up").returncode == 0
    assert not any("apt-get" in call for call in machine.calls())


@pytest.mark.parametrize("changed", ["bindep.txt", "setup.cfg", "constraints.txt"])
def test_a_changed_input_is_installed_into_the_same_environment(machine: Machine, changed: str) -> None:
    machine.run("up")
    machine.calls()
    with (machine.project / changed).open("a") as file:
        file.write("# changed\n")
    assert machine.run("up").returncode == 0
    (call,) = machine.calls()
    assert call.startswith("pip")
    assert f"-c {machine.project}/constraints.txt -e {machine.project}" in call


def test_an_environment_whose_python_is_broken_is_made_anew(machine: Machine) -> None:
    machine.run("up")
    machine.calls()
    python = machine.venv / "bin" / "python"
    python.unlink()
    python.symlink_to(machine.state / "gone")
    assert machine.run("up").returncode == 0
    assert [call.split()[0] for call in machine.calls()] == ["venv", "pip"]


def test_an_environment_whose_installation_was_killed_is_made_anew(machine: Machine) -> None:
    (machine.state / "pip-dies").touch()
    assert machine.run("up").returncode == -9
    assert [call.split()[0] for call in machine.calls()] == ["venv", "pip"]
    done = machine.run("up")
    assert (done.returncode, done.stdout) == (0, "engine up\n")
    assert [call.split()[0] for call in machine.calls()] == ["venv", "pip"]


def test_an_update_that_was_killed_is_made_anew_too(machine: Machine) -> None:
    machine.run("up")
    constraints = machine.project / "constraints.txt"
    before = constraints.read_text()
    constraints.write_text(before + "# changed\n")
    (machine.state / "pip-dies").touch()
    assert machine.run("up").returncode == -9
    machine.calls()
    constraints.write_text(before)
    assert machine.run("up").returncode == 0
    assert [call.split()[0] for call in machine.calls()] == ["venv", "pip"]


def test_a_pip_that_fails_shows_the_end_of_its_log(machine: Machine) -> None:
    (machine.state / "pip-fails").touch()
    done = machine.run("up")
    assert done.returncode == 1
    assert "no such release" in done.stderr
    assert str(machine.venv / "setup.log") in done.stderr
    assert not list(machine.venv.glob("stamp.*"))
    (machine.state / "pip-fails").unlink()
    assert machine.run("up").returncode == 0


def test_an_update_that_fails_leaves_what_worked(machine: Machine) -> None:
    machine.run("up")
    machine.calls()
    constraints = machine.project / "constraints.txt"
    before = constraints.read_text()
    constraints.write_text(before + "# changed\n")
    (machine.state / "pip-fails").touch()
    assert machine.run("up").returncode == 1
    assert [call.split()[0] for call in machine.calls()] == ["pip"]
    constraints.write_text(before)
    assert machine.run("up").returncode == 0
    assert machine.calls() == []


def test_inputs_that_went_back_are_installed_again(machine: Machine) -> None:
    machine.run("test", "--set-up-only")
    constraints = machine.project / "constraints.txt"
    before = constraints.read_text()
    constraints.write_text(before + "# changed\n")
    machine.run("up")
    constraints.write_text(before)
    machine.calls()
    assert machine.run("up").returncode == 0
    assert [call.split()[0] for call in machine.calls()] == ["pip"]


def test_an_environment_made_by_hand_is_kept(machine: Machine) -> None:
    machine.run("up")
    (machine.venv / "stamp.up").unlink()
    machine.calls()
    assert machine.run("up").returncode == 0
    assert [call.split()[0] for call in machine.calls()] == ["pip"]


def test_the_environment_of_the_tests_serves_up_but_not_the_other_way_round(machine: Machine) -> None:
    machine.run("up")
    assert not machine.calls()[-1].endswith("[test]")
    done = machine.run("test", "-e", "unit")
    assert (done.returncode, done.stdout) == (0, "tox run -e unit\n")
    assert machine.calls()[-1].endswith("[test]")
    assert machine.run("up").returncode == 0
    assert machine.calls() == []


def test_the_environment_can_be_made_without_running_anything(machine: Machine) -> None:
    done = machine.run("test", "--set-up-only")
    assert (done.returncode, done.stdout) == (0, "")
    assert (machine.venv / "stamp.test").exists()


def test_a_failure_of_the_checks_is_the_exit_code(machine: Machine) -> None:
    machine.run("test", "--set-up-only")
    (machine.state / "tox-fails").touch()
    done = machine.run("test")
    assert done.returncode == 3
    assert "FAILED" in done.stderr


def test_a_line_of_bindep_that_is_not_understood_is_not_passed_over(machine: Machine) -> None:
    with (machine.project / "bindep.txt").open("a") as file:
        file.write("libfoo [platform:rpm]\n")
    done = machine.run("up")
    assert done.returncode == 1
    assert "libfoo [platform:rpm]" in done.stderr


def server_configuration(machine: Machine) -> Path:
    return Path(f"{machine.state}/etc/postgresql-common/createcluster.conf")


def test_only_the_tests_ask_for_postgresql_and_no_server_is_made_of_it(machine: Machine) -> None:
    machine.lacks_packages("postgresql")
    assert machine.run("up").returncode == 0
    assert not [call for call in machine.calls() if call.startswith("apt-get")]
    assert machine.run("test", "--set-up-only").returncode == 0
    assert [call for call in machine.calls() if call.startswith("apt-get") and "postgresql" in call]
    assert server_configuration(machine).read_text() == "create_main_cluster = false\n"


def test_what_the_machine_says_of_its_servers_is_left_alone(machine: Machine) -> None:
    machine.lacks_packages("postgresql")
    server_configuration(machine).parent.mkdir(parents=True)
    server_configuration(machine).write_text("data_checksums = on\n")
    assert machine.run("test", "--set-up-only").returncode == 0
    assert server_configuration(machine).read_text() == "data_checksums = on\n"


def test_a_postgresql_of_ones_own_serves_the_tests(machine: Machine) -> None:
    machine.lacks_packages("postgresql")
    program = Path(f"{machine.state}/usr/lib/postgresql/17/bin/postgres")
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    assert machine.run("test", "--set-up-only").returncode == 0
    assert not [call for call in machine.calls() if call.startswith("apt-get")]
