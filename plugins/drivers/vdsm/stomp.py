"""STOMP 1.2 frames to bytes and back (https://stomp.github.io/stomp-specification-1.2.html).

Pure: no I/O, no clock. The driver and the simulator both speak through it. A stream decodes to the
same frames however it is cut into pieces, and what does not follow the grammar raises
`ProtocolError`, which names the fault; nothing is guessed, nothing grows past its limit. Ten
thousand connections poll through one decoder each, so a whole frame that arrives in one piece is
read in place and only its body is copied; an idle decoder holds no buffer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from engine.plugin import EngineError

HEARTBEAT: Final = b"\n"

MAX_HEADERS: Final = 64
MAX_HEADER_BYTES: Final = 16 * 1024
"""The command line, all header lines and the blank line together."""
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""Default limit of a body: all VM statistics of a crowded host stay far below it."""

_CLIENT: Final = ("CONNECT", "STOMP", "SEND", "SUBSCRIBE", "UNSUBSCRIBE", "ACK", "NACK", "BEGIN", "COMMIT")
_COMMANDS: Final = frozenset((*_CLIENT, "ABORT", "DISCONNECT", "CONNECTED", "MESSAGE", "RECEIPT", "ERROR"))
_WITH_BODY: Final = frozenset(("SEND", "MESSAGE", "ERROR"))
_UNESCAPED: Final = frozenset(("CONNECT", "CONNECTED"))
"""The specification exempts these two, so that a peer of version 1.0 can read them."""
_MAX_COMMAND_LINE: Final = max(map(len, _COMMANDS)) + 2

_LF: Final = 10
_CR: Final = 13

_SPECIAL: Final = re.compile(r"[\r\n:\\]")
_ESCAPES: Final = {"\r": "\\r", "\n": "\\n", ":": "\\c", "\\": "\\\\"}
_ESCAPED: Final = re.compile(r"\\(.?)", re.DOTALL)
_UNESCAPES: Final = {"r": "\r", "n": "\n", "c": ":", "\\": "\\"}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. Header names and values are unescaped; of a repeated header the first counts."""

    command: str
    headers: dict[str, str]
    body: bytes = b""


class ProtocolError(EngineError):
    """The bytes are not STOMP 1.2. `frames` are the whole ones that came before in the same piece."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.frames: tuple[Frame, ...] = ()


def encode(frame: Frame) -> bytes:
    """The bytes of `frame`; a body gets its content-length. Raises `ProtocolError` if it has no form."""
    command, headers, body = frame.command, frame.headers, frame.body
    if command not in _COMMANDS:
        raise ProtocolError(f"unknown command {command!r}")
    if body and command not in _WITH_BODY:
        raise ProtocolError(f"{command} carries no body")
    sized = b"content-length:%d\n" % len(body) if body or "content-length" in headers else b""
    return b"%b\n%b%b\n%b\0" % (command.encode(), header_lines(command, headers), sized, body)


def header_lines(command: str, headers: Mapping[str, str]) -> bytes:
    """The lines of `headers` in a frame of `command`, without content-length. Raises `ProtocolError`."""
    write = _plain if command in _UNESCAPED else _escape
    lines = []
    for name, value in headers.items():
        if not name or (write is _plain and ":" in name):
            raise ProtocolError(f"{name!r} cannot name a header of {command}")
        if name != "content-length":
            lines.append(f"{write(name)}:{write(value)}\n")
    head = "".join(lines).encode()
    if 0 in head:
        raise ProtocolError(f"NUL in a header of {command}")
    return head


def encode_send(lines: bytes, body: bytes) -> bytes:
    """A SEND whose `header_lines` were made before: most frames of a client differ in the body only."""
    return b"SEND\n%bcontent-length:%d\n\n%b\0" % (lines, len(body), body)


def heart_beat(value: str) -> tuple[int, int]:
    """Read a heart-beat header: milliseconds that its sender (can send, wants to receive); 0 is never."""
    sends, comma, wants = value.partition(",")
    if not comma or not _is_number(sends) or not _is_number(wants):
        raise ProtocolError(f"heart-beat {value!r} is not two numbers")
    return int(sends), int(wants)


class Decoder:
    """Bytes of one connection in, frames out. Heart-beats are counted, not returned.

    After a `ProtocolError` the stream has no meaning any more: each later `feed` raises it again.
    """

    __slots__ = ("_buffer", "_fault", "_head", "_need", "_scanned", "heartbeats", "max_frame_bytes")

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        """`max_frame_bytes` limits the body; headers have limits of their own."""
        self.max_frame_bytes = max_frame_bytes
        self.heartbeats = 0
        self._buffer: bytearray | None = None  # starts at a frame that is not all there
        self._head: _Head | None = None  # of that frame, once it is all there
        self._need = 0  # bytes in the buffer before looking again makes sense
        self._scanned = 0  # bytes of the buffer in which no end was found
        self._fault: ProtocolError | None = None

    @property
    def pending(self) -> bool:
        """True while a frame has begun and not ended: an end of the stream now truncates it."""
        return self._buffer is not None

    def feed(self, data: bytes) -> list[Frame]:
        """All frames that `data` completes, in order. Raises `ProtocolError`."""
        if self._fault is not None:
            raise ProtocolError(str(self._fault))
        buffer = self._buffer
        frames: list[Frame] = []
        try:
            if buffer is None:
                at = self._parse(data, frames)
                if at < len(data):
                    self._buffer = bytearray(data[at:])
                return frames
            buffer += data
            if len(buffer) < self._need:
                return frames
            at = self._parse(buffer, frames)
        except ProtocolError as error:
            error.frames = tuple(frames)
            self._fault, self._buffer, self._head = error, None, None
            raise
        if at == len(buffer):
            self._buffer = None
        else:
            del buffer[:at]
        return frames

    def _parse(self, source: bytes | bytearray, frames: list[Frame]) -> int:
        """Append all whole frames; return where the first that is not whole begins."""
        at, end = 0, len(source)
        while at < end:
            first = source[at]
            if first == _LF:
                self.heartbeats += 1
                at += 1
            elif first == _CR:
                if at + 1 == end:
                    return at
                if source[at + 1] != _LF:
                    raise ProtocolError("carriage return without line feed between frames")
                self.heartbeats += 1
                at += 2
            else:
                after = self._frame(source, at, end, frames)
                if after < 0:
                    return at
                at = after
        return at

    def _frame(self, source: bytes | bytearray, at: int, end: int, frames: list[Frame]) -> int:
        """Append the frame that begins at `at` and return where it ended, or -1: not all there."""
        head = self._head or self._read_head(source, at, end)
        if head is None:
            return -1
        start = at + head.size
        if head.content_length is not None:
            stop = start + head.content_length
            if stop >= end:
                return self._wait(head, need=stop + 1 - at, scanned=0)
            if source[stop] != 0:
                raise ProtocolError(
                    f"{head.command} has no NUL after its {head.content_length} bytes of body"
                )
        else:
            stop = source.find(0, max(start, at + self._scanned), start + self.max_frame_bytes + 1)
            if stop < 0:
                if end - start > self.max_frame_bytes:
                    raise ProtocolError(f"body of {head.command} is larger than {self.max_frame_bytes} bytes")
                return self._wait(head, need=0, scanned=end - at)
        if stop > start and head.command not in _WITH_BODY:
            raise ProtocolError(f"{head.command} carries a body")
        body = source[start:stop] if isinstance(source, bytes) else bytes(memoryview(source)[start:stop])
        frames.append(Frame(head.command, head.headers, body))
        self._head, self._need, self._scanned = None, 0, 0
        return stop + 1

    def _wait(self, head: _Head | None, *, need: int, scanned: int) -> int:
        self._head, self._need, self._scanned = head, need, scanned
        return -1

    def _read_head(self, source: bytes | bytearray, at: int, end: int) -> _Head | None:
        """The command and headers of the frame at `at`; None while they are not all there."""
        limit = min(end, at + MAX_HEADER_BYTES)
        since = at + max(self._scanned - 2, 0)  # an end may have begun in the last two bytes
        last = source.find(b"\n\n", since, limit)
        with_cr = source.find(b"\n\r\n", since, limit if last < 0 else last + 1)
        if with_cr >= 0:
            last, size = with_cr, with_cr + 3 - at
        elif last >= 0:
            size = last + 2 - at
        else:
            self._refuse_hopeless(source, at, since, limit)
            self._wait(None, need=0, scanned=end - at)
            return None
        return _read_head(bytes(source[at : last + 1]), size, self.max_frame_bytes)

    @staticmethod
    def _refuse_hopeless(source: bytes | bytearray, at: int, since: int, limit: int) -> None:
        """Raise if no further byte can make a frame of this: garbage must not wait for a deadline."""
        if source.find(0, since, limit) >= 0:
            raise ProtocolError("NUL before the end of the headers")
        line = source.find(b"\n", at, at + _MAX_COMMAND_LINE)
        if line >= 0:
            _command(bytes(source[at:line]).removesuffix(b"\r"))
        elif limit - at >= _MAX_COMMAND_LINE:
            raise ProtocolError(f"no command in {bytes(source[at : at + _MAX_COMMAND_LINE])!r}")
        if limit - at >= MAX_HEADER_BYTES:
            raise ProtocolError(f"headers are larger than {MAX_HEADER_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class _Head:
    command: str
    headers: dict[str, str]
    size: int
    content_length: int | None


def _read_head(block: bytes, size: int, max_body: int) -> _Head:
    """`block` ends with the line feed of the last header line; `size` adds the blank line."""
    command, _, rest = block.partition(b"\n")
    name_of_command = _command(command.removesuffix(b"\r"))
    try:
        text = rest.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"headers of {name_of_command} are not UTF-8: {error.reason}") from error
    if "\r" in text:
        text = text.replace("\r\n", "\n")
        if "\r" in text:
            raise ProtocolError(f"carriage return in a header of {name_of_command}")
    if "\0" in text:
        raise ProtocolError("NUL before the end of the headers")
    lines = text.split("\n")
    lines.pop()  # what follows the last line feed
    if len(lines) > MAX_HEADERS:
        raise ProtocolError(f"{name_of_command} has {len(lines)} headers, more than {MAX_HEADERS}")
    headers = _headers(lines, escaped="\\" in text, free_values=name_of_command in _UNESCAPED)
    return _Head(name_of_command, headers, size, _content_length(headers, max_body))


def _headers(lines: list[str], *, escaped: bool, free_values: bool) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name:
            raise ProtocolError(f"header line {line[:80]!r} is not name:value")
        if not free_values:
            if ":" in value:
                raise ProtocolError(f"unescaped colon in the value of header {name!r}")
            if escaped:
                name, value = _unescape(name), _unescape(value)
        if name not in headers:
            headers[name] = value
    return headers


def _content_length(headers: dict[str, str], max_body: int) -> int | None:
    value = headers.get("content-length")
    if value is None:
        return None
    if not _is_number(value):
        raise ProtocolError(f"content-length {value[:80]!r} is not a number")
    if int(value) > max_body:
        raise ProtocolError(f"content-length {value} is larger than {max_body} bytes")
    return int(value)


def _is_number(text: str) -> bool:
    """Digits only, and few enough of them that they cannot cost anything."""
    return text.isascii() and text.isdigit() and len(text) <= 12


def _command(line: bytes) -> str:
    try:
        command = line.decode("ascii")
    except UnicodeDecodeError:
        command = ""
    if command not in _COMMANDS:
        raise ProtocolError(f"unknown command {line[:_MAX_COMMAND_LINE]!r}")
    return command


def _plain(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise ProtocolError(f"line end in {text[:80]!r}, which this frame cannot escape")
    return text


def _escape(text: str) -> str:
    if _SPECIAL.search(text) is None:
        return text
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], text)


def _unescape(text: str) -> str:
    return _ESCAPED.sub(_unescape_one, text) if "\\" in text else text


def _unescape_one(found: re.Match[str]) -> str:
    try:
        return _UNESCAPES[found[1]]
    except KeyError:
        raise ProtocolError(f"undefined escape {found[0]!r} in a header") from None
