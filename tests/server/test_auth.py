import pytest

from dedup_server.auth import Keys
from dedup_server.errors import ApiError


def test_without_keys_everyone_may_ask() -> None:
    assert Keys([]).check([]) is None


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer ",
        b"Bearer other",
        b"Bearer sesam",
        "Bearer sésame".encode("latin-1"),
        b"\xff\xfe",
    ],
)
def test_a_wrong_key_is_a_401(header: bytes | None) -> None:
    with pytest.raises(ApiError) as raised:
        Keys(["sesame", "clé"]).check([] if header is None else [(b"authorization", header)])
    assert raised.value.status == 401


def test_any_of_the_keys_opens() -> None:
    keys = Keys(["one", "two"])
    assert keys.check([(b"host", b"x"), (b"authorization", b"Bearer two")]) == "key 2"
    assert keys.check([(b"x-api-key", b"one")]) == "key 1"
