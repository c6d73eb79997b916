"""From the bytes of a configuration node to what oslo.config converts.

A node holds JSON or plain text. Numbers and booleans are handed on as written, as if they stood in
a file, so that `1.50` stays `1.50` for a string option and oslo.config alone decides what is a valid
number; only JSON strings, lists and objects are decoded. Pure; used by the driver.
"""

from __future__ import annotations

import json
import math
from typing import Any

from oslo_config import cfg, types


def decode(data: bytes, opt: cfg.Opt) -> Any:
    """The value to hand to oslo.config for `opt`: a text, a list of texts, or a dict of texts.

    Raises `ValueError`, which says what is wrong, for what cannot be meant for this option.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    value = _parse(text)
    if value is None:
        raise ValueError("it is null; delete the node to leave the option unset")
    if isinstance(value, dict) and not _takes(opt, types.Dict):
        raise ValueError(f"it is a JSON object, where a {_kind(opt)} is expected")
    if isinstance(value, list) and not opt.multi and not _takes(opt, types.List):
        raise ValueError(f"it is a JSON list, where a {_kind(opt)} is expected")
    if opt.multi and not isinstance(value, list):
        return [value]
    return value


def check(value: Any, opt: cfg.Opt) -> None:
    """Raise `ValueError` when oslo.config would refuse the value. Templates are for it to fill first."""
    if "$" in json.dumps(value):
        return
    for item in value if opt.multi else [value]:
        taken = opt.type(item)
        if taken is None:  # what oslo.config makes of a number without digits
            raise ValueError("it is empty; to leave the option unset, unset it")
        if isinstance(taken, float) and not math.isfinite(taken):  # which is within any range
            raise ValueError("it is no finite number")


def _parse(text: str) -> Any:
    try:
        value = json.loads(text, parse_int=str, parse_float=str)
    except ValueError:
        return text.strip()
    if isinstance(value, bool):
        return _text(value)
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, dict):
        return {name: _text(item) for name, item in value.items()}
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _takes(opt: cfg.Opt, kind: type) -> bool:
    return isinstance(opt.type, kind)


def _kind(opt: cfg.Opt) -> str:
    return str(getattr(opt.type, "type_name", "value"))
