"""The log: what is written comes back, merged, and what cannot be read is not passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.simulator.log import (
    ConnectionChange,
    PowerChange,
    Request,
    VmChange,
    WitnessLog,
    read_log,
    read_requests,
)


def ask(log: WitnessLog, host: int, **fields: object) -> None:
    values: dict[str, object] = {
        "engine": "a",
        "epoch": 1,
        "verb": "Host.ping2",
        "request_id": "r",
        "op": "o",
    }
    log.request(host, **{**values, **fields})  # type: ignore[arg-type]


def test_a_request_comes_back_as_it_was_written(tmp_path: Path) -> None:
    log = WitnessLog(tmp_path)
    epoch = (3 << 32) | 7
    log.request(20000, engine="e", epoch=epoch, verb="VM.create", request_id="id", op="op-1", about="v1")
    log.connection(20000, opened=False, peer=40000)
    log.close()
    request, change = read_log(tmp_path)
    assert isinstance(request, Request)
    assert (request.host, request.engine, request.epoch) == (20000, "e", (3 << 32) | 7)
    assert (request.verb, request.id, request.op, request.vm) == ("VM.create", "id", "op-1", "v1")
    assert isinstance(change, ConnectionChange)
    assert (change.host, change.opened, change.peer) == (20000, False, 40000)
    assert change.t >= request.t > 0


def test_changes_of_vms_and_of_power_come_back_as_they_were_written(tmp_path: Path) -> None:
    log = WitnessLog(tmp_path)
    log.vm(20000, "v1", "Powering up")
    log.power(20001, on=False)
    log.power(20001, on=True)
    log.close()
    vm, off, on = read_log(tmp_path)
    assert vm == VmChange(vm.t, 20000, "v1", "Powering up")
    assert off == PowerChange(off.t, 20001, on=False)
    assert on == PowerChange(on.t, 20001, on=True)


def test_a_line_can_be_read_by_others_as_soon_as_it_is_written(tmp_path: Path) -> None:
    log = WitnessLog(tmp_path)
    for number in range(3):
        ask(log, number)
        assert [request.host for request in read_requests(tmp_path)] == list(range(number + 1))


def test_files_of_several_processes_are_merged_by_time(tmp_path: Path) -> None:
    first, second = WitnessLog(tmp_path / "x"), WitnessLog(tmp_path / "y")
    for number in range(6):
        ask(first if number % 2 else second, 5 - number)
    for log, name in ((first, "x"), (second, "y")):
        log.close()
        (file,) = (tmp_path / name).iterdir()
        file.rename(tmp_path / f"{file.stem}-{name}.jsonl")
    assert [request.host for request in read_requests(tmp_path)] == [5, 4, 3, 2, 1, 0]


def test_a_line_that_was_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    log = WitnessLog(tmp_path)
    ask(log, 1)
    log.close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + b'{"t":12')
    assert len(read_requests(tmp_path)) == 1


@pytest.mark.parametrize(
    "line",
    [b"rubbish\n", b'{"t":1}\n', b'{"t":"x","host":1,"engine":"","epoch":1,"verb":"","id":"","op":""}\n'],
)
def test_a_line_that_is_not_ours_is_an_error_that_names_it(tmp_path: Path, line: bytes) -> None:
    log = WitnessLog(tmp_path)
    ask(log, 1)
    log.close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + line)
    with pytest.raises(ValueError, match="line 2"):
        read_requests(tmp_path)


def test_times_of_another_boot_are_not_merged(tmp_path: Path) -> None:
    log = WitnessLog(tmp_path)
    ask(log, 1)
    log.close()
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / ("00000000" + file.name[8:]))
    assert read_requests(tmp_path) == []


def test_a_full_file_gives_way_and_nothing_recent_is_lost(tmp_path: Path) -> None:
    log = WitnessLog(tmp_path, limit_bytes=500)
    for number in range(8):
        ask(log, number)
    log.close()
    assert len(list(tmp_path.iterdir())) == 2
    kept = [request.host for request in read_requests(tmp_path)]
    assert kept == list(range(8))[-len(kept) :]
    assert len(kept) >= 4


def test_what_clients_send_is_written_as_text_whatever_it_is(tmp_path: Path) -> None:
    log = WitnessLog(tmp_path)
    ask(log, 1, verb={"a": 1}, request_id=None, epoch=None, engine='"\n')
    log.close()
    (request,) = read_requests(tmp_path)
    assert (request.verb, request.id, request.epoch, request.engine) == ("{'a': 1}", "None", None, '"\n')


def test_without_a_directory_requests_are_only_counted() -> None:
    log = WitnessLog(None)
    ask(log, 1)
    log.connection(1, opened=True, peer=2)
    log.close()
    assert log.requests == 1
