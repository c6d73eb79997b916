"""The STOMP 1.2 codec, byte by byte: what is written, what is read, what is refused and by what name."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plugins.drivers.vdsm import stomp
from plugins.drivers.vdsm.stomp import Decoder, Frame, ProtocolError, encode, heart_beat

MESSAGE = b"MESSAGE\nsubscription:1\ncontent-length:2\n\n{}\0"

header_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
headers = st.dictionaries(
    header_text.filter(lambda name: name not in ("", "content-length")), header_text, max_size=6
)
bodied = st.builds(Frame, st.sampled_from(["SEND", "MESSAGE", "ERROR"]), headers, st.binary(max_size=64))
bare = st.builds(Frame, st.sampled_from(["SUBSCRIBE", "DISCONNECT", "RECEIPT"]), headers)
frames = st.lists(st.one_of(bodied, bare), max_size=5)


def without_length(frame: Frame) -> Frame:
    kept = {name: value for name, value in frame.headers.items() if name != "content-length"}
    return Frame(frame.command, kept, frame.body)


def feed_in_pieces(stream: bytes, cuts: list[int]) -> tuple[list[Frame], str | None, int]:
    """Decode `stream` cut at `cuts`: the frames, the error's text if any, the heart-beats."""
    decoder, got = Decoder(), []
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, stop in itertools.pairwise(edges):
        try:
            got += decoder.feed(stream[start:stop])
        except ProtocolError as error:
            got += error.frames
            return got, str(error), decoder.heartbeats
    return got, None, decoder.heartbeats


def test_a_send_frame_is_written_with_escaped_headers_and_its_length() -> None:
    frame = Frame("SEND", {"destination": "jms.topic.x", "a:b": "1\r\n2\\3:4"}, b"{\0}")
    assert encode(frame) == (
        b"SEND\ndestination:jms.topic.x\na\\cb:1\\r\\n2\\\\3\\c4\ncontent-length:3\n\n{\0}\0"
    )


def test_connect_and_connected_are_written_and_read_without_escapes() -> None:
    written = encode(Frame("CONNECT", {"accept-version": "1.2", "host": "fe80::1\\n"}))
    assert written == b"CONNECT\naccept-version:1.2\nhost:fe80::1\\n\n\n\0"
    assert Decoder().feed(written)[0].headers["host"] == "fe80::1\\n"


def test_a_content_length_that_is_handed_in_is_replaced_by_the_true_one() -> None:
    assert encode(Frame("SEND", {"content-length": "99"}, b"ab")) == b"SEND\ncontent-length:2\n\nab\0"


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        (Frame("HELLO", {}), "unknown command 'HELLO'"),
        (Frame("SUBSCRIBE", {}, b"x"), "SUBSCRIBE carries no body"),
        (Frame("SEND", {"a": "x\0y"}), "NUL in a header of SEND"),
        (Frame("SEND", {"": "x"}), "'' cannot name a header of SEND"),
        (Frame("CONNECT", {"a:b": "x"}), "'a:b' cannot name a header of CONNECT"),
        (Frame("CONNECT", {"host": "a\nb"}), "line end in 'a\\nb', which this frame cannot escape"),
    ],
)
def test_a_frame_without_a_form_on_the_wire_is_not_written(frame: Frame, fault: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        encode(frame)
    assert str(raised.value) == fault


def test_a_body_with_content_length_may_hold_nul() -> None:
    (frame,) = Decoder().feed(b"MESSAGE\ncontent-length:5\n\na\0b\0c\0")
    assert frame.body == b"a\0b\0c"


def test_a_body_without_content_length_ends_at_nul() -> None:
    first, second = Decoder().feed(b"MESSAGE\n\nabc\0ERROR\n\n\0")
    assert (first.body, second) == (b"abc", Frame("ERROR", {}, b""))


def test_carriage_returns_before_line_feeds_are_read_and_dropped() -> None:
    (frame,) = Decoder().feed(b"MESSAGE\r\na:b\r\nc:\r\n\r\nline\r\n\0")
    assert frame == Frame("MESSAGE", {"a": "b", "c": ""}, b"line\r\n")


def test_a_blank_line_in_the_body_does_not_end_the_headers_of_a_frame_with_carriage_returns() -> None:
    (frame,) = Decoder().feed(b"MESSAGE\r\na:b\r\n\r\none\n\ntwo\0")
    assert frame == Frame("MESSAGE", {"a": "b"}, b"one\n\ntwo")


def test_a_blank_line_with_carriage_return_in_the_body_does_not_end_the_headers_of_a_frame_without() -> None:
    (frame,) = Decoder().feed(b"MESSAGE\na:b\n\none\n\r\ntwo\0")
    assert frame == Frame("MESSAGE", {"a": "b"}, b"one\n\r\ntwo")


def test_of_a_repeated_header_the_first_counts() -> None:
    assert Decoder().feed(b"MESSAGE\na:1\na:2\n\n\0")[0].headers == {"a": "1"}


def test_blanks_in_headers_are_kept() -> None:
    assert Decoder().feed(b"MESSAGE\na : b \n\n\0")[0].headers == {"a ": " b "}


def test_heart_beats_between_frames_are_counted_and_not_returned() -> None:
    decoder = Decoder()
    assert decoder.feed(b"\n\r\n") == []
    assert len(decoder.feed(MESSAGE + b"\n" + MESSAGE + b"\n\n")) == 2
    assert decoder.heartbeats == 5
    assert not decoder.pending


def test_a_truncated_frame_is_pending_and_a_whole_one_leaves_nothing_behind() -> None:
    decoder = Decoder()
    assert decoder.feed(MESSAGE[:-1]) == []
    assert decoder.pending
    assert len(decoder.feed(MESSAGE[-1:])) == 1
    assert not decoder.pending


MALFORMED = {
    b"GARBAGE\n": "unknown command b'GARBAGE'",
    b"MESSAGE \n": "unknown command b'MESSAGE '",
    b"\xff\xfe\n": "unknown command b'\\xff\\xfe'",
    b"x" * 13: "no command in b'xxxxxxxxxxxxx'",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03ab": "NUL before the end of the headers",
    b"MESSAGE\0abcdef": "NUL before the end of the headers",
    b"MESSAGE\na:b\0": "NUL before the end of the headers",
    b"MESSAGE\na:b\0c\n\n": "NUL before the end of the headers",
    b"MESSAGE\nab\n\n": "header line 'ab' is not name:value",
    b"MESSAGE\n:b\n\n": "header line ':b' is not name:value",
    b"MESSAGE\na:b:c\n\n": "unescaped colon in the value of header 'a'",
    b"MESSAGE\na:\\t\n\n": "undefined escape '\\\\t' in a header",
    b"MESSAGE\na:\\\n\n": "undefined escape '\\\\' in a header",
    b"MESSAGE\na:b\rc\n\n": "carriage return in a header of MESSAGE",
    b"MESSAGE\na:\xff\n\n": "headers of MESSAGE are not UTF-8: invalid start byte",
    b"MESSAGE\ncontent-length:-1\n\n": "content-length '-1' is not a number",
    b"MESSAGE\ncontent-length:\n\n": "content-length '' is not a number",
    b"MESSAGE\ncontent-length:\xc2\xb2\n\n": "content-length '²' is not a number",
    b"MESSAGE\ncontent-length:" + b"9" * 5000 + b"\n\n": "content-length '999",
    b"MESSAGE\ncontent-length:2\n\nabc": "MESSAGE has no NUL after its 2 bytes of body",
    b"CONNECTED\n\nabc\0": "CONNECTED carries a body",
    b"\rMESSAGE\n\n\0": "carriage return without line feed between frames",
}


@pytest.mark.parametrize(("stream", "fault"), MALFORMED.items(), ids=str)
def test_a_malformed_stream_is_refused_by_name_in_one_piece_and_byte_by_byte(
    stream: bytes, fault: str
) -> None:
    for cuts in ([], list(range(len(MESSAGE + stream)))):
        got, error, _ = feed_in_pieces(MESSAGE + stream, cuts)
        assert [frame.body for frame in got] == [b"{}"]
        assert error is not None
        assert error.startswith(fault)


def test_a_decoder_that_failed_goes_on_refusing() -> None:
    decoder = Decoder()
    with pytest.raises(ProtocolError):
        decoder.feed(b"GARBAGE\n")
    with pytest.raises(ProtocolError, match="GARBAGE"):
        decoder.feed(MESSAGE)


def test_too_many_headers_are_refused_and_the_allowed_number_is_read() -> None:
    def stream(count: int) -> bytes:
        return b"MESSAGE\n" + b"".join(b"h%d:\n" % n for n in range(count)) + b"\n\0"

    assert len(Decoder().feed(stream(stomp.MAX_HEADERS))[0].headers) == stomp.MAX_HEADERS
    with pytest.raises(ProtocolError, match="65 headers, more than 64"):
        Decoder().feed(stream(stomp.MAX_HEADERS + 1))


@pytest.mark.parametrize("piece", [1, 1000, 1 << 20])
def test_headers_over_the_limit_are_refused_before_they_end(piece: int) -> None:
    stream = b"MESSAGE\na:" + b"x" * stomp.MAX_HEADER_BYTES
    _, error, _ = feed_in_pieces(stream, list(range(0, len(stream), piece)))
    assert error == "headers are larger than 16384 bytes"


def test_headers_of_exactly_the_limit_are_read() -> None:
    filling = stomp.MAX_HEADER_BYTES - len(b"MESSAGE\na:\n\n")
    (frame,) = Decoder().feed(b"MESSAGE\na:" + b"x" * filling + b"\n\n\0")
    assert len(frame.headers["a"]) == filling
    with pytest.raises(ProtocolError, match="headers are larger"):
        Decoder().feed(b"MESSAGE\na:" + b"x" * (filling + 1) + b"\n\n\0")


def test_an_announced_body_over_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ProtocolError, match="content-length 11 is larger than 10 bytes"):
        Decoder(max_frame_bytes=10).feed(b"MESSAGE\ncontent-length:11\n\n")
    assert (
        Decoder(max_frame_bytes=10).feed(b"MESSAGE\ncontent-length:10\n\n0123456789\0")[0].body
        == b"0123456789"
    )


@pytest.mark.parametrize("piece", [1, 3, 100])
def test_a_body_without_length_is_refused_once_it_is_over_the_limit(piece: int) -> None:
    stream = b"MESSAGE\n\n0123456789"
    decoder = Decoder(max_frame_bytes=10)
    for at in range(0, len(stream), piece):
        assert decoder.feed(stream[at : at + piece]) == []
    with pytest.raises(ProtocolError, match="body of MESSAGE is larger than 10 bytes"):
        decoder.feed(b"x")
    assert Decoder(max_frame_bytes=10).feed(stream + b"\0")[0].body == b"0123456789"


def test_a_body_of_16_mib_in_small_pieces_costs_no_more_than_reading_it_once() -> None:
    """Quadratic work would be some 10,000 times as much, and run into the test's time limit."""
    for head in (b"MESSAGE\ncontent-length:16777216\n\n", b"MESSAGE\n\n"):
        decoder = Decoder()
        got = decoder.feed(head)
        piece = b"x" * 1024
        for _ in range(16 * 1024):
            got += decoder.feed(piece)
        got += decoder.feed(b"\0")
        assert [len(frame.body) for frame in got] == [16 * 1024 * 1024]


def test_the_heart_beat_header_is_read_as_two_numbers() -> None:
    assert heart_beat("0,30000") == (0, 30000)


@pytest.mark.parametrize("value", ["", "1", "1,", ",1", "1,2,3", "-1,0", "a,b", "1, 2"])
def test_a_heart_beat_header_that_is_not_two_numbers_is_refused(value: str) -> None:
    with pytest.raises(ProtocolError, match="is not two numbers"):
        heart_beat(value)


@given(frames)
def test_what_was_encoded_decodes_to_the_same_frames(sent: list[Frame]) -> None:
    got = Decoder().feed(b"".join(map(encode, sent)))
    assert [without_length(frame) for frame in got] == sent


@given(frames, st.lists(st.integers(0, 400), max_size=8), st.integers(0, 3))
def test_however_the_stream_is_cut_the_frames_are_the_same(
    sent: list[Frame], cuts: list[int], heartbeats: int
) -> None:
    stream = b"".join(b"\n" * heartbeats + encode(frame) for frame in sent)
    whole = feed_in_pieces(stream, [])
    assert feed_in_pieces(stream, cuts) == whole
    assert feed_in_pieces(stream, list(range(len(stream)))) == whole
    assert whole[2] == heartbeats * len(sent)


PARTS = (MESSAGE, b"MESSAGE", b"SEND", b"a", b":", b"\\", b"\\c", b"content-length:3", b"\xff", b"\0")
LINE_ENDS = (b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n")
garbage = st.lists(st.sampled_from(PARTS + LINE_ENDS), max_size=24).map(b"".join)


@settings(max_examples=400)
@given(st.one_of(garbage, st.binary(max_size=80)), st.lists(st.integers(0, 120), max_size=6))
@example(b"MESSAGE\r\n\r\n\0\r\n", [9, 10])
def test_however_garbage_is_cut_the_frames_before_it_and_the_verdict_are_the_same(
    stream: bytes, cuts: list[int]
) -> None:
    whole_frames, whole_error, _ = feed_in_pieces(stream, [])
    cut_frames, cut_error, _ = feed_in_pieces(stream, cuts)
    assert cut_frames == whole_frames
    assert (cut_error is None) == (whole_error is None)
