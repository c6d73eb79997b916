"""JSON-RPC 2.0 as the agent serves it: from the body of a SEND to the answer on its way.

One request, or one in an array, is answered with a bare object; the answer to a batch of two would
be an array, which the agent's broker cannot send, so there is none, though both were carried out.
What cannot be understood is answered with id null, which only the default queue gets. Every request
enters the witness's log before anything else happens to it.
"""

from __future__ import annotations

import functools
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import orjson

from plugins.drivers.vdsm.stomp import Frame
from plugins.simulator.verbs import VerbError, run_verb

if TYPE_CHECKING:
    from plugins.simulator.host import SimulatedHost

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INTERNAL_ERROR = -32603
STALE_EPOCH = -32001
"""Not the agent's: what `refuse_stale` answers."""
_BUSY = 1100
_MAX_WAITING = 88
"""Eight workers and eighty places in their queue: what comes on top is refused with 1100."""
_MAX_EPOCH = 2**63 - 1


class _Unanswered(Exception):
    """The request gets no answer."""


def witness(host: SimulatedHost, frame: Frame) -> None:
    """Log the requests of a SEND without serving them."""
    try:
        body = orjson.loads(frame.body)
    except orjson.JSONDecodeError:
        body = None
    for request in body if isinstance(body, list) else [body]:
        _log(host, frame.headers, request)


def serve(host: SimulatedHost, frame: Frame) -> None:
    """Carry out what a SEND to a request queue asks for."""
    headers = frame.headers
    try:
        body = orjson.loads(frame.body)
    except orjson.JSONDecodeError:
        _log(host, headers, None)
        _respond(host, [_error(None, PARSE_ERROR, "Parse error")])
        return
    requests = body if isinstance(body, list) else [body]
    if not requests:
        _log(host, headers, None)
        _respond(host, [_error(None, INVALID_REQUEST, "an empty array asks for nothing")])
        return
    for request in requests:
        if isinstance(request, dict) and _is_key(request.get("id")):
            host.broker.expect(request.get("id"), headers.get("reply-to"))
    stale = [_log(host, headers, request) for request in requests]
    run = functools.partial(_serve_all, host, requests, stale)
    slow = max(host.faults.delay_seconds(_method_of(request)) for request in requests)
    if not slow:
        run()
    elif host.waiting >= _MAX_WAITING:
        _respond(host, [_error(_id_of(request), _BUSY, "The agent is too busy") for request in requests])
    else:
        host.after(slow, run)


def _serve_all(host: SimulatedHost, requests: list[Any], stale: list[bool]) -> None:
    answers: list[dict[str, Any]] = []
    for request, is_stale in zip(requests, stale, strict=True):
        try:
            answer = _serve_one(host, request, is_stale)
        except _Unanswered:
            continue
        if isinstance(answer, Coroutine):
            host.spawn(_serve_later(host, request["id"], answer), name=f"{request['method']} {host.port}")
            continue
        answers.append(answer)
    if answers:
        _respond(host, answers)


def _serve_one(
    host: SimulatedHost, request: Any, is_stale: bool
) -> dict[str, Any] | Coroutine[Any, Any, Any]:
    if not isinstance(request, dict):
        return _error(None, INTERNAL_ERROR, "Internal error")
    if request.get("jsonrpc") != "2.0":
        return _error(None, INVALID_REQUEST, "jsonrpc must be 2.0")
    method, params = request.get("method"), request.get("params", [])
    if not isinstance(method, str):
        return _error(None, INVALID_REQUEST, "method must be a text")
    if not isinstance(params, list | dict):
        return _error(None, INVALID_REQUEST, "params must be an array or a map")
    request_id = request.get("id")
    if not _is_key(request_id):
        return _error(None, INVALID_REQUEST, "id must be a string or a number")
    if is_stale and host.faults.refuse_stale:
        host.counters.refused_stale += 1
        return _error(request_id, STALE_EPOCH, "stale epoch")
    code = host.faults.take_error(method)
    if code is not None:
        return _error(request_id, code, _FAULT_MESSAGES.get(code, "Simulated fault"))
    try:
        result = run_verb(host, method, params)
    except VerbError as error:
        return _error(request_id, error.code, error.message)
    if host.faults.take_drop(method) or request_id is None:
        if isinstance(result, Coroutine):
            host.spawn(result, name=f"{method} {host.port}")
        raise _Unanswered
    return result if isinstance(result, Coroutine) else _result(request_id, result)


async def _serve_later(host: SimulatedHost, request_id: Any, work: Coroutine[Any, Any, Any]) -> None:
    try:
        answer = _result(request_id, await work)
    except VerbError as error:
        answer = _error(request_id, error.code, error.message)
    _respond(host, [answer])


def _respond(host: SimulatedHost, answers: list[dict[str, Any]]) -> None:
    if len(answers) == 1:
        host.broker.answer(answers[0]["id"], orjson.dumps(answers[0]))


def _log(host: SimulatedHost, headers: dict[str, str], request: Any) -> bool:
    """Record one request; True if it bears an epoch lower than one this host has seen."""
    is_request = isinstance(request, dict)
    params = request.get("params") if is_request else None
    epoch = _epoch(headers.get("engine-epoch", ""))
    host.log.request(
        host.port,
        engine=headers.get("engine-id", ""),
        epoch=epoch,
        verb=request.get("method", "") if is_request else "",
        request_id=request.get("id", "") if is_request else "",
        op=headers.get("ovirtCorrelationId", ""),
        about=params.get("vmID") if isinstance(params, dict) else None,
    )
    host.counters.requests += 1
    if epoch is None:
        return False
    if epoch < host.epoch:
        host.counters.stale += 1
        return True
    host.epoch = epoch
    return False


def _epoch(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return min(int(text), _MAX_EPOCH)


def _is_key(request_id: object) -> bool:
    return request_id is None or isinstance(request_id, str | int | float)


def _method_of(request: Any) -> str:
    method = request.get("method") if isinstance(request, dict) else None
    return method if isinstance(method, str) else ""


def _id_of(request: Any) -> Any:
    return request.get("id") if isinstance(request, dict) else None


def _result(request_id: Any, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": True if result is None else result}


def _error(request_id: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}


_FAULT_MESSAGES = {99: "The agent is recovering", _BUSY: "The agent is too busy"}
