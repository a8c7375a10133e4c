import pytest
from hypothesis import given
from hypothesis import strategies as st

from server import sse
from server.sse import EventTooLongError, SSEDecoder


def events_of(*parts: bytes) -> list[bytes]:
    decoder = SSEDecoder()
    return [event for part in parts for event in decoder.feed(part)] + decoder.flush()


@given(
    st.lists(
        st.sampled_from([b"data: x", b"data:y", b": note", b"event: e", b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xe2\x80\xa8"]),
        max_size=30,
    ),
    st.data(),
)
def test_any_chunking_gives_the_same_events(pieces: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert events_of(*parts) == events_of(stream)


def test_lines_end_at_cr_lf_or_both_and_nowhere_else() -> None:
    assert events_of(b"data: a\n\ndata: b\r\rdata: c\r\n\r\n") == [b"a", b"b", b"c"]
    text = "data: a\u2028b\n\n".encode()
    assert events_of(text) == ["a\u2028b".encode()]


def test_data_lines_join_and_comments_and_a_bom_go() -> None:
    assert events_of(b"\xef\xbb\xbf: hello\ndata: a\ndata: b\n\n") == [b"a\nb"]


def test_a_last_event_may_lack_its_blank_line() -> None:
    assert events_of(b"data: a") == [b"a"]


def test_encode_is_undone() -> None:
    assert events_of(sse.encode(b'{"a":1}') + sse.DONE) == [b'{"a":1}', b"[DONE]"]


def test_an_endless_event_is_refused() -> None:
    decoder = SSEDecoder(max_event_bytes=10)
    with pytest.raises(EventTooLongError):
        decoder.feed(b"data: 12345678901")
