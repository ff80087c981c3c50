"""`backends.<service>.urls`: addresses with weights, and what is wrong about them."""

from __future__ import annotations

import pytest

from hartonomous.configfile import parse
from hartonomous.errors import ConfigError
from hartonomous.services import Address

KEY = "backends.embedding.urls"


def text(urls: str) -> str:
    return f"backends:\n  embedding:\n    urls: {urls}\n  generative:\n    urls: [http://127.0.0.1:8710]\n"


def read(urls: str) -> tuple[Address, ...]:
    return parse(text(urls), {}).backends.embedding.urls


def problem(urls: str) -> str:
    with pytest.raises(ConfigError) as error:
        read(urls)
    return error.value.message


def test_an_address_is_a_string_or_has_a_weight() -> None:
    assert read("[http://a, {url: http://b, weight: 3}, {url: 'http://c/', weight: 0}, {url: http://d}]") == (
        Address(url="http://a", weight=1),
        Address(url="http://b", weight=3),
        Address(url="http://c", weight=0),
        Address(url="http://d", weight=1),
    )


def test_an_address_alone_is_the_same_as_one_with_a_weight_of_one() -> None:
    assert parse(text("[http://a/]"), {}) == parse(text("[{url: http://a, weight: 1}]"), {})


def test_weights_come_from_the_environment_as_other_values_do() -> None:
    block = text("\n      - http://a\n      - url: http://b\n        weight: ${B:-2}")
    weights = [parse(block, environ).backends.embedding.urls[1].weight for environ in ({}, {"B": "0"})]
    assert weights == [2, 0]


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        ("[{url: http://a, weight: 0}]", f"{KEY}: expected at least one address with a weight above 0"),
        ("[{url: http://a, weight: 0}, {url: http://b, weight: 0}]", f"{KEY}: expected at least one address with a"),
        ("[http://a, http://a/]", f"{KEY}: http://a stands here twice"),
        ("[http://a, {url: 'http://A:80', weight: 0}]", f"{KEY}: http://A:80 stands here twice"),
        ("[https://a, 'https://a:443/']", f"{KEY}: https://a:443 stands here twice"),
        ("[http://a, {url: http://b, weight: -1}]", f"{KEY}.1.weight: expected greater than or equal to 0"),
        ("[{url: http://b, weight: 1001}]", f"{KEY}.0.weight: expected less than or equal to 1000"),
        ("[{url: http://b, weight: 0.5}]", f"{KEY}.0.weight: expected a valid integer"),
        ("[{url: http://b, weight: '2'}]", f"{KEY}.0.weight: expected a valid integer"),
        ("[{url: http://b, wieght: 2}]", f"{KEY}.0.wieght: unknown key"),
        ("[{weight: 2}]", f"{KEY}.0.url: this key is required"),
        ("[{url: b}]", f"{KEY}.0.url: expected an address like"),
        ("[http://a, b]", f"{KEY}.1: expected an address like"),
        ("[5]", f"{KEY}.0: expected keys and values"),
        ("[[http://a]]", f"{KEY}.0: expected keys and values"),
        ("{url: http://a}", f"{KEY}: expected a list"),
        ("http://a", f"{KEY}: expected a list"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(urls: str, expected: str) -> None:
    told = problem(urls)
    assert "\n" not in told, told
    assert told.startswith(f"configuration:3: {expected}"), told


def test_the_same_host_with_another_port_scheme_or_path_is_another_address() -> None:
    assert len(read("[http://a, https://a, 'http://a:81', http://a/b, http://b]")) == 5
