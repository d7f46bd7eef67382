"""Hosts and paths of untrusted URLs in one form for comparison."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.pipeline.url_keys import host_key, url_key


@pytest.mark.parametrize(
    ("url", "host", "rest"),
    [
        ("http://Example.COM./a?b=1#part", "example.com", "/a?b=1"),
        ("https://user:pw@sub.example.com:443/%7Ebar", "sub.example.com", "/~bar"),
        ("https://example.com:8080", "example.com", ":8080/"),
        ("http://example.com:080/", "example.com", "/"),
        ("http://example.com?q", "example.com", "/?q"),
        ("HTTP:\\\\example.com\\a", "example.com", "/a"),
        (" ht\ntps://exam\tple.com/ ", "example.com", "/"),
        ("example.com/x", "example.com", "/x"),
        ("//example.com/x", "example.com", "/x"),
        ("http://BÜCHER。de/é", "xn--bcher-kva.de", "/é"),
        ("http://XN--Bcher-KVA.de/%C3%A9", "xn--bcher-kva.de", "/é"),
        ("http://%65xample.com/", "example.com", "/"),
        ("http://straße.de/", "xn--strae-oqa.de", "/"),
        ("http://i❤.ws/", "xn--i-7iq.ws", "/"),
        ("http://foo_bar.example.com/", "foo_bar.example.com", "/"),
        ("http://[2001:DB8:0::1]:80/", "2001:db8::1", "/"),
        ("http://0x7f.1/", "127.0.0.1", "/"),
        ("http://2130706433/", "127.0.0.1", "/"),
        ("http://localhost/", "localhost", "/"),
    ],
)
def test_equal_urls_have_equal_keys(url: str, host: str, rest: str) -> None:
    key = url_key(url)
    assert key is not None
    assert (key.host, key.rest) == (host, rest)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "http://a..b/",
        "http://a:b:c/",
        "http://a b/",
        "http://1.2.3.4.5/",
        "http://[::1/",
        "urn:isbn:1",
        "file:///etc/passwd",
        "ftps://example.com/",
        "http://" + "a" * 64 + ".com/",
        "http://" + "a." * 600 + "com",
    ],
)
def test_other_texts_have_none(url: str) -> None:
    assert url_key(url) is None


@pytest.mark.parametrize(
    ("url", "domains"),
    [
        ("http://a.b.example.co.uk/", ["a.b.example.co.uk", "b.example.co.uk", "example.co.uk", "co.uk", "uk"]),
        ("http://10.0.0.1/", ["10.0.0.1"]),
        ("http://[::1]/", ["::1"]),
    ],
)
def test_domains_above_a_host(url: str, domains: list[str]) -> None:
    key = url_key(url)
    assert key is not None
    assert key.domains() == domains


@given(st.text(max_size=40))
def test_no_text_raises(text: str) -> None:
    for prefix in ("", "http://", "http://[", "https://a@"):
        url_key(prefix + text)
    found = host_key(text)
    assert found is None or host_key(f"[{found}]" if ":" in found else found) == found
