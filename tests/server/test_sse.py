import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup.lenient_json import read_json, write_json
from dedup_server.wire.sse import Event, EventTooLongError, SSEDecoder, encode


def all_of(*parts: bytes) -> list[Event]:
    decoder = SSEDecoder()
    return [event for part in parts for event in decoder.feed(part)] + decoder.flush()


def events_of(*parts: bytes) -> list[bytes]:
    return [event.data for event in all_of(*parts) if event.data]


@given(
    st.lists(
        st.sampled_from(
            [
                b"data: x",
                b"data: x\n\n",
                b"data: x\n\ndata: y\n\n",
                b"data:y",
                b": note",
                b"event: e",
                b"\r",
                b"\n",
                b"\r\n",
                b"\xef\xbb\xbf",
                b"\xe2\x80\xa8",
            ]
        ),
        max_size=30,
    ),
    st.data(),
)
def test_any_chunking_gives_the_same_events(pieces: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    events = all_of(*parts)
    assert events == all_of(stream)
    assert [event.encode() for event in events] == [
        encode(event.data, event.name) for event in events
    ]


def test_lines_end_at_cr_lf_or_both_and_nowhere_else() -> None:
    assert events_of(b"data: a\n\ndata: b\r\rdata: c\r\n\r\n") == [b"a", b"b", b"c"]
    text = "data: a\u2028b\n\n".encode()
    assert events_of(text) == ["a\u2028b".encode()]


def test_data_lines_join_and_comments_and_a_bom_go() -> None:
    assert events_of(b"\xef\xbb\xbf: hello\ndata: a\ndata: b\n\n") == [b"a\nb"]


def test_a_last_event_may_lack_its_blank_line() -> None:
    assert events_of(b"data: a") == [b"a"]


@pytest.mark.parametrize(
    "event", [Event(b'{"a":1}'), Event(b"a\nb", b"named"), Event(b"", b": note")]
)
def test_encode_is_undone(event: Event) -> None:
    assert all_of(encode(event.data, event.name)) == [event]


@pytest.mark.parametrize("data", [b"{", b"[" * 100_000, b"\xff"])
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_json(data)


def test_json_with_bytes_that_are_no_utf8_or_half_a_pair_is_read_all_the_same() -> None:
    assert read_json(b'{"a":"x\xffy"}') == {"a": "x\ufffdy"}
    assert read_json(write_json({"a": "\ud83d"})) == {"a": "\ud83d"}


def test_an_endless_event_is_refused() -> None:
    decoder = SSEDecoder(max_event_bytes=10)
    with pytest.raises(EventTooLongError):
        decoder.feed(b"data: 12345678901")
