"""The parser of external URLs: accepted URLs, and that it refuses all others with its own error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.pipeline.urls import BadUrlError, web_url

GOOD = {
    "http://a.example/x?y=1#z": ("http", "a.example", 80, "http://a.example"),
    "HTTPS://A.example:8443": ("https", "a.example", 8443, "https://a.example:8443"),
    "https://a.example:443/": ("https", "a.example", 443, "https://a.example"),
    "http://[2606:2800::1]:81/": ("http", "2606:2800::1", 81, "http://[2606:2800::1]:81"),
    "http://93.184.216.34/": ("http", "93.184.216.34", 80, "http://93.184.216.34"),
    "http://a_b.example./": ("http", "a_b.example.", 80, "http://a_b.example."),
    "http://xn--bcher-kva.example/": ("http", "xn--bcher-kva.example", 80, "http://xn--bcher-kva.example"),
    "http://a.example:/": ("http", "a.example", 80, "http://a.example"),
}
BAD = [
    *(
        "",
        " ",
        "x",
        "/x",
        "//host/x",
        "http:",
        "http:/",
        "http://",
        "http:///x",
        "http://:80/",
        "http://?x",
        "http://#x",
    ),
    *(
        "http://[::1",
        "http://[::1]x/",
        "http://::1/",
        "http://[fe80::1%25eth0]/",
        "http://[v1.x]/",
        "http://[1.2.3.4]/",
    ),
    *("http://a:99999/", "http://a:port/", "http://a:-1/", "http://a:0/", "http://a:8_0/", "http://a:80:80/"),
    *("http://\u00e9.example/", "http://a/\u00e9", "http://\u0661\u0662\u0667.0.0.1/", "http://\uff41.example/"),
    *("http://a\0.example/", "http://a/\x1b[31m", "http://a/b c", "http://a/\tb", "http://a/\n", "\u00a0http://a/"),
    *("http://user@a.example/", "http://user:pw@a.example/", "http://a.example\\@b.example/", "http:\\\\a.example\\"),
    *(
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://1.2.3.4.5/",
        "http://1.2.3/",
    ),
    *("http://0x7f000001/", "http://1.2.3.256/", "http://a.1/", "http://127.0.0.1./", "http://0x/"),
    *(
        "javascript:alert(1)",
        "ftp://a.example/",
        "file:///etc/passwd",
        "data:text/html,x",
        "gopher://a/",
        "http+unix://a/",
    ),
    *("http://a..b/", "http://.a/", "http://" + "a" * 64 + "/", "http://" + ".".join(["a" * 60] * 5) + "/"),
    *("http://%31.example/", "http://a%00b/", "http://a'b/", "http://a|b/", "http://<b>/", "http://a,b/"),
    "http://a/" + "x" * 9000,
]


@pytest.mark.parametrize("text", GOOD)
def test_parts_of_a_url(text: str) -> None:
    url = web_url(text)
    assert (url.scheme, url.host, url.port, url.origin) == GOOD[text]
    assert str(url) == text


@pytest.mark.parametrize("text", BAD)
def test_invalid_urls_are_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(BadUrlError) as caught:
        web_url(text)
    message = str(caught.value)
    assert len(message) < 600
    assert message.isprintable()
    assert "pw@" not in message


@pytest.mark.parametrize(
    ("reference", "joined"),
    [
        ("/y", "http://a.example/y"),
        ("y?z", "http://a.example/b/y?z"),
        ("//b.example/y", "http://b.example/y"),
        ("https://b.example", "https://b.example"),
        ("?q=1", "http://a.example/b/c?q=1"),
        ("../../../y", "http://a.example/y"),
    ],
)
def test_references_are_joined(reference: str, joined: str) -> None:
    assert web_url("http://a.example/b/c").join(reference).text == joined


@pytest.mark.parametrize(
    "reference",
    ["http:///x", "http:x", "HTTP:/x", "///x", "////b.example/x", "//[::1", "\\\\b.example\\x", "ftp:x", ""],
)
def test_invalid_references_are_refused(reference: str) -> None:
    with pytest.raises(BadUrlError):
        web_url("http://a.example/b/c").join(reference)


PIECES = st.sampled_from(
    [
        *("http", "https", "://", ":", "/", "//", "[", "]", "::1", "@", "\\", "%", "%00", "a", ".", "..", "0x7f", "1"),
        *("99999", "?", "#", "\0", "\ud800", "\u0660", "\u2100", "\u3002", "ffff:", "v1.", "-", "_", " ", "\n", "xn--"),
        *("\uff0f", "\ufe13"),
    ]
)


@given(st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join)))
def test_no_other_error_is_raised(text: str) -> None:
    for parse in (web_url, web_url("http://a.example/b").join):
        try:
            url = parse(text)
        except BadUrlError as error:
            assert str(error).isprintable()
        else:
            assert web_url(url.text) == url
