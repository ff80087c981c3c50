"""The parser of multipart bodies: whole, cut anywhere, and hostile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.multipart import MAX_HEADER_BYTES, MultipartParser, Part, boundary_of, parameters
from hartonomous.errors import InvalidRequestError
from tests.effort import Work, growth

HEAD = b'Content-Disposition: form-data; name="a"'


def _parse(body: bytes, size: int = 1 << 20, boundary: bytes = b"X") -> list[tuple[dict[str, str], bytes]]:
    parser = MultipartParser(boundary)
    found: list[tuple[dict[str, str], bytes]] = []
    for place in range(0, len(body), size):
        for event in parser.feed(body[place : place + size]):
            if isinstance(event, Part):
                found.append((dict(event.headers), b""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + event)
    parser.close()
    return found


def _data(body: bytes, size: int = 1 << 20) -> list[bytes]:
    return [data for _, data in _parse(body, size)]


def _body(*parts: bytes, boundary: bytes = b"X") -> bytes:
    delimiter = b"--" + boundary
    return b"".join(delimiter + b"\r\n" + HEAD + b"\r\n\r\n" + part + b"\r\n" for part in parts) + delimiter + b"--\r\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"--X--\r\n", []),
        (b"--X--", []),
        (_body(b"hello", b"", b"\r\n"), [b"hello", b"", b"\r\n"]),
        (b"preamble\r\n\r\n" + _body(b"a") + b"epilogue --X\r\n--X\r\n", [b"a"]),
        (b"--X \t\r\n" + HEAD + b"\r\n\r\na\r\n--X  \r\n" + HEAD + b"\r\n\r\nb\r\n--X--", [b"a", b"b"]),
        (_body(b"a\r\n--Xy\r\n--", b"\r\n-", b"--X\r\n"), [b"a\r\n--Xy\r\n--", b"\r\n-", b"--X\r\n"]),
        (_body(b"a\r\n--X" + b" " * 200 + b"\r"), [b"a\r\n--X" + b" " * 200 + b"\r"]),
        (_body(b"a\n--X\nb"), [b"a\n--X\nb"]),
        (_body(b"a\r\n--X\rb"), [b"a\r\n--X\rb"]),
    ],
)
def test_parts_are_found_wherever_the_body_is_cut(body: bytes, expected: list[bytes]) -> None:
    for size in (1, 2, 3, 5, 1 << 20):
        assert _data(body, size) == expected


@given(st.lists(st.binary(max_size=60), max_size=4), st.integers(1, 40))
def test_any_data_comes_out_as_it_went_in(parts: list[bytes], size: int) -> None:
    boundary = b"a boundary that is in none"
    body = _body(*parts, boundary=boundary)
    found = _parse(body, size, boundary)
    assert [data for _, data in found] == parts


@given(
    st.lists(st.sampled_from([b"\r\n", b"--", b"X", b" ", b"a", b"\r", b"\n", b"-"]), max_size=20), st.integers(1, 9)
)
def test_what_resembles_a_delimiter_is_cut_the_same_way_anywhere(marks: list[bytes], size: int) -> None:
    body = b"--X\r\n" + HEAD + b"\r\n\r\n" + b"".join(marks) + b"\r\n--X--"

    def outcome(size: int) -> object:
        try:
            return _data(body, size)
        except InvalidRequestError as error:
            return error.error_code

    assert outcome(size) == outcome(1 << 20)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"--X",
        b"--Y--",
        b"--X\r\n",
        b"--X\r\n\r\na\r\n--X--",
        b"--X\r\n" + HEAD + b"\r\n\r\nabc",
        b"--X\r\n" + HEAD + b"\r\n\r\nabc\r\n--X",
        b"--X\r\n" + HEAD + b"\r\n\r\nabc\r\n--X-",
        b"--X\r\n" + HEAD + b"\r\n\r\nabc\r\n--X\r\n",
        b"--X\r\n" + HEAD + b"\r\n" + HEAD + b"\r\n\r\na\r\n--X--",
        b"--X\r\nno header\r\n\r\na\r\n--X--",
        b"--X\r\nA : b\r\n\r\na\r\n--X--",
        b"--X\r\nA: b\r\n folded\r\n\r\na\r\n--X--",
        b"--X\r\nA: b\x00\r\n\r\na\r\n--X--",
        b"--X\r\nA: b\nB: c\r\n\r\na\r\n--X--",
        b"--X\r\nA: \xff\r\n\r\na\r\n--X--",
        b"--X\r\nA: " + b"a" * MAX_HEADER_BYTES + b"\r\n\r\na\r\n--X--",
    ],
)
def test_broken_framing_is_a_400_wherever_it_is_cut(body: bytes) -> None:
    for size in (1, 7, 1 << 20):
        with pytest.raises(InvalidRequestError) as caught:
            _parse(body, size)
        assert caught.value.error_code == "bad_framing"


OPENED = b"--X\r\n" + HEAD + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "repeated"),
    [
        (b"", b"\r\n--Xy"),
        (OPENED, b"\r\n--Xy"),
        (OPENED + b"\r\n--X", b" "),
        (OPENED, b"\r\n--X" + b" " * 60 + b"y"),
        (b"", b"\r"),
        (b"", OPENED + b"\r\n"),
    ],
)
def test_memory_is_bounded_and_time_is_linear_for_hostile_bodies(head: bytes, repeated: bytes) -> None:
    def prepared(size: int) -> Work:
        body = head + repeated * (size // len(repeated))
        return lambda: _fed(body)

    assert growth(prepared, 64_000, 1_024_000, 48) < 48  # 16 when it is linear, 256 when it is quadratic


def test_a_header_without_end_takes_bounded_memory() -> None:
    _fed(b"--X\r\n" + b"A" * (MAX_HEADER_BYTES - 1_000))


def _fed(body: bytes) -> None:
    parser = MultipartParser(b"X")
    for place in range(0, len(body), 1_000):
        for _ in parser.feed(body[place : place + 1_000]):
            pass
        assert len(parser._buffer) < MAX_HEADER_BYTES


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('form-data; name="a"', ("form-data", {"name": "a"})),
        ("Form-Data;NAME=a ; filename = b.txt ;", ("form-data", {"name": "a", "filename": "b.txt"})),
        (r'form-data; filename="a;\"b\".txt"', ("form-data", {"filename": 'a;"b".txt'})),
        (r'form-data; filename="C:\dir\\x.txt"', ("form-data", {"filename": r"C:\dir\x.txt"})),
        ('form-data; filename="a=b; c=d"', ("form-data", {"filename": "a=b; c=d"})),
        ("form-data; filename*=UTF-8''%e2%82%ac", ("form-data", {"filename*": "UTF-8''%e2%82%ac"})),
        ('form-data; name=""', ("form-data", {"name": ""})),
        ("multipart/form-data; boundary=x", ("multipart/form-data", {"boundary": "x"})),
    ],
)
def test_a_header_is_split_into_its_parameters(header: str, expected: tuple[str, dict[str, str]]) -> None:
    assert parameters(header) == expected


@pytest.mark.parametrize(
    "header", ["", ";", "form-data; name", 'form-data; name="a', "form-data; a=1; a=2", "form-data x"]
)
def test_a_malformed_header_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequestError):
        parameters(header)


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=é"]
)
def test_without_a_boundary_nothing_can_be_read(content_type: str) -> None:
    assert boundary_of('multipart/form-data; boundary="a b"') == b"a b"
    for wrong in (content_type, f"multipart/form-data; boundary={'x' * 71}", 'multipart/form-data; boundary="x "'):
        with pytest.raises(InvalidRequestError):
            boundary_of(wrong)
