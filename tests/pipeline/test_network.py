"""Network access: which addresses are public, and that the connection uses the checked address."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpcore
import pytest

from longcat.pipeline.network import GuardedBackend, PrivateAddressError, UnknownHostError, is_public
from longcat.pipeline.remote_web import _Named
from longcat.pipeline.urls import web_url

PUBLIC = [
    *(
        "93.184.216.34",
        "1.1.1.1",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.0.1",
        "172.32.0.1",
        "192.0.1.1",
        "198.17.0.1",
    ),
    *(
        "198.20.0.1",
        "223.255.255.255",
        "2606:2800:220:1::1",
        "2a00:1450::1",
        "::ffff:93.184.216.34",
        "64:ff9b::5db8:d822",
    ),
]
CLOSED = [
    *("0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "100.127.255.255", "127.0.0.1", "127.9.9.9"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.9", "192.0.0.192", "192.0.2.1"),
    *("192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
    *("239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
    *("::", "::1", "::7f00:1", "::127.0.0.1", "fe80::1", "fe80::1%eth0", "2606:2800::1%1", "fc00::1", "fd00:ec2::254"),
    *("fec0::1", "ff02::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1", "2001::1", "2001:10::1", "2001:20::1"),
    *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2002:7f00:1::", "2002:5db8:d822::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "64:ff9b:1:fffe::8.8.8.8", "4000::1"),
    *("", "localhost", "127.1", "0x7f.1", "2130706433"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_open_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", CLOSED)
def test_reserved_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def answers(*each: list[str]) -> Any:
    """A resolver that gives a different answer on each call."""
    left = iter(each)
    return lambda host, port, **_: [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(left)
    ]


def test_a_name_is_resolved_once_and_one_private_address_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = GuardedBackend()
    monkeypatch.setattr("longcat.pipeline.network._look_up", lambda host, port, timeout: ["93.184.216.34", "10.0.0.1"])
    with pytest.raises(PrivateAddressError):
        backend.connect_tcp("rebinding.example", 80)
    asked: list[str] = []

    def connect(address: str, *_: Any) -> Any:
        asked.append(address)
        raise httpcore.ConnectError

    monkeypatch.setattr("longcat.pipeline.network._look_up", lambda host, port, timeout: ["1.1.1.1", "93.184.216.34"])
    monkeypatch.setattr(backend._plain, "connect_tcp", connect)
    with pytest.raises(httpcore.ConnectError):
        backend.connect_tcp("public.example", 80)
    assert asked == ["1.1.1.1", "93.184.216.34"]


def test_the_next_address_is_tried(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    port = listener.getsockname()[1]
    monkeypatch.setattr(socket, "getaddrinfo", _first_dead(socket.getaddrinfo))
    threading.Thread(target=listener.accept, daemon=True).start()
    GuardedBackend(allowed=True).connect_tcp("two.example", port, timeout=5).close()


def _first_dead(real: Any) -> Any:
    def resolve(host: str, port: int, *more: Any, **options: Any) -> Any:
        if host != "two.example":
            return real(host, port, *more, **options)
        # No server listens on the first one.
        return [(2, 1, 6, "", ("127.0.0.2", port)), (2, 1, 6, "", ("127.0.0.1", port))]

    return resolve


def test_a_name_without_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answers([]))
    with pytest.raises(UnknownHostError):
        GuardedBackend().resolve("none.example", 80, 5)


def test_an_allowed_host_may_be_private_and_a_public_one_must_stay_public(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = GuardedBackend(_Named(web_url("http://data.corp:8080/x")))
    monkeypatch.setattr(socket, "getaddrinfo", answers(["10.0.0.1"], ["10.0.0.1"], ["10.0.0.1"], ["10.0.0.2"]))
    assert [inside.resolve("data.corp", 8080, 5) for _ in range(2)] == [["10.0.0.1"], ["10.0.0.1"]]
    for host, port in (("data.corp", 6379), ("other.corp", 8080)):
        with pytest.raises(PrivateAddressError):
            inside.resolve(host, port, 5)
    outside = GuardedBackend(_Named(web_url("https://a.example/x")))
    monkeypatch.setattr(socket, "getaddrinfo", answers(["93.184.216.34"], ["127.0.0.1"]))
    assert outside.resolve("a.example", 443, 5) == ["93.184.216.34"]
    with pytest.raises(PrivateAddressError):
        outside.resolve("a.example", 443, 5)
