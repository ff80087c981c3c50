"""API keys: their form tells a mistyped one, and a server knows them by a hash that needs its pepper."""

from __future__ import annotations

import hashlib
import hmac
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core import apikey

PEPPER = b"a pepper of the tests"
IDS = st.from_regex(apikey.ID_PATTERN, fullmatch=True)
SECRETS = st.binary(min_size=apikey.SECRET_BYTES, max_size=apikey.SECRET_BYTES)
WORD = string.ascii_letters + string.digits


@given(key_id=IDS, secret=SECRETS)
def test_a_key_carries_its_id_and_goes_into_a_header(key_id: str, secret: bytes) -> None:
    key = apikey.make(key_id, secret)
    assert apikey.id_of(key) == key_id
    assert re.fullmatch(r"hart_[A-Za-z0-9.-]{1,64}_[0-9A-Za-z]{49}", key)


@given(key_id=IDS, secrets=st.lists(SECRETS, min_size=2, max_size=2, unique=True))
def test_other_bytes_make_another_key(key_id: str, secrets: list[bytes]) -> None:
    assert apikey.make(key_id, secrets[0]) != apikey.make(key_id, secrets[1])


@given(key_id=IDS, secret=SECRETS, data=st.data())
def test_one_mistyped_character_is_noticed(key_id: str, secret: bytes, data: st.DataObject) -> None:
    key = apikey.make(key_id, secret)
    at = data.draw(st.integers(0, len(key) - 1))
    typed = data.draw(st.sampled_from([character for character in WORD + "_.-é\n" if character != key[at]]))
    assert apikey.id_of(key[:at] + typed + key[at + 1 :]) is None


@given(key_id=IDS, secret=SECRETS, data=st.data())
def test_a_key_that_is_cut_off_or_too_long_is_none(key_id: str, secret: bytes, data: st.DataObject) -> None:
    key = apikey.make(key_id, secret)
    assert apikey.id_of(key[: data.draw(st.integers(0, len(key) - 1))]) is None
    assert apikey.id_of(key + data.draw(st.sampled_from([*WORD, "\n", " ", "\0"]))) is None


@given(st.text())
def test_no_text_is_more_than_no_key(text: str) -> None:
    assert apikey.id_of(text) is None
    assert apikey.id_of(f"hart_a_{text}") is None


@pytest.mark.parametrize("key_id", ["", "_", "a_b", "-a", ".a", "a" * 65, "a b", "a\n", "é", "a/b"])
def test_an_id_that_a_key_cannot_carry_is_refused(key_id: str) -> None:
    with pytest.raises(ValueError, match="is no id of a key"):
        apikey.make(key_id, bytes(apikey.SECRET_BYTES))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="expected 32 bytes"):
        apikey.make("a", bytes(length))


def test_the_hash_is_the_hmac_of_the_whole_key() -> None:
    key = apikey.make("a", bytes(apikey.SECRET_BYTES))
    expected = hmac.new(PEPPER, key.encode(), hashlib.sha256).hexdigest()
    assert apikey.hashed(key, PEPPER) == f"hmac-sha256:{expected}"
    assert apikey.digest_of(apikey.hashed(key, PEPPER)) == apikey.digest(key, PEPPER)
    assert apikey.hashed(key, b"another pepper") != apikey.hashed(key, PEPPER)


@pytest.mark.parametrize("text", ["", "hmac-sha256:", "0" * 64, "sha256:" + "0" * 64, "hmac-sha256:" + "G" * 64])
def test_a_hash_of_another_form_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="expected hmac-sha256: and 64 hexadecimal digits") as failure:
        apikey.digest_of(text)
    assert not text or text not in str(failure.value).replace("hmac-sha256:", "", 1)


def test_a_key_of_now_is_a_key_of_later() -> None:
    """The form is a contract: keys are out there."""
    assert apikey.make("team-a", bytes(range(32))) == "hart_team-a_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf20UQMR"


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 200])
def test_what_has_taken_in_a_pepper_makes_the_digests_of_hmac(length: int) -> None:
    pepper, digest_with = bytes(range(length)), apikey.digests(bytes(range(length)))
    assert [digest_with(key) for key in ("", "hart_a", "hart_a")] == [
        hmac.digest(pepper, key, "sha256") for key in (b"", b"hart_a", b"hart_a")
    ]
