"""The URL crawler with a local server: fetched pages, and refused ones."""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpcore
import pytest
from warcio.archiveiterator import ArchiveIterator

from longcat.pipeline import faults
from longcat.pipeline.errors import InputError, MachineError
from longcat.pipeline.network import GuardedBackend
from longcat.pipeline.runner import Session
from longcat.pipeline.runner import run_stage as run

LOCATIONS = {
    "/half-bracket": "http://[::1",
    "/big-port": "http://a.example:99999/",
    "/word-port": "http://a.example:port/",
    "/latin": "http://a\xe9.example/",
    "/no-host": "http:///x",
    "/login": "http://user:secret@a.example/",
    "/script": "javascript:alert(1)",
    "/backslash": "http:\\\\a.example\\x",
    "/long": "/" + "x" * 9000,
    "/blank": "/a b",
    "/octal": "http://0177.0.0.1/",
    "/label": "http://" + "a" * 64 + ".example/",
}


class Handler(BaseHTTPRequestHandler):
    """A small site with typical faults of web servers."""

    def do_GET(self) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        path = self.path
        if path == "/robots.txt":
            self.answer(200, b"User-agent: *\nDisallow: /private/\n")
        elif path == "/jump":
            self.answer(302, b"", location="/page")
        elif path == "/loop":
            self.answer(302, b"", location="/loop")
        elif path == "/out":
            self.answer(302, b"", location="ftp://example.org/x")
        elif path in LOCATIONS:
            self.answer(302, b"", location=LOCATIONS[path])
        elif path == "/missing":
            self.answer(404, b"no")
        elif path == "/large":
            self.answer(200, b"x" * 200_000)
        elif path == "/slow":
            time.sleep(3)
            self.answer(200, b"late")
        elif path == "/drip":
            self.drip()
        elif path == "/drip-header":
            self.drip_header()
        else:
            self.answer(200, f"<p>{path}</p>".encode())

    def answer(self, status: int, body: bytes, location: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(20):
            time.sleep(0.2)
            self.wfile.write(b"x")
            self.wfile.flush()

    def drip_header(self) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
        for _ in range(40):
            time.sleep(0.2)
            self.wfile.write(b"x")
            self.wfile.flush()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []  # type: ignore[attr-defined]
    server.handle_error = lambda *arguments: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def address(site: Any) -> str:
    return f"http://127.0.0.1:{site.server_address[1]}"


def configuration(tmp_path: Path, urls: list[str], **more: Any) -> dict[str, Any]:
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(["# a comment", "", *urls]))
    fast = {"delay_seconds": 0, "total_seconds": 2, "read_seconds": 1, "max_page_bytes": 100_000, "allow_private": True}
    return {"url_file": str(path), **fast, **more}


def reasons(artifact: Any) -> dict[str, str]:
    lines = artifact.file("failures.jsonl").read_text().splitlines()
    return {json.loads(line)["url"].rpartition("/")[2]: json.loads(line)["reason"] for line in lines}


def test_pages_are_in_the_order_of_the_list(session: Session, site: Any, tmp_path: Path) -> None:
    base = address(site)
    config = configuration(tmp_path, [f"{base}/b", f"{base}/jump", f"{base}/a", f"{base}/b"])
    artifact = run(session, "data.collect.urls", config).artifact
    with artifact.file("crawl-00000.warc.gz").open("rb") as stream:
        found = [
            (record.rec_headers.get_header("WARC-Target-URI"), record.content_stream().read())
            for record in ArchiveIterator(stream, check_digests="raise")
        ]
    assert [url.removeprefix(base) for url, _ in found] == ["/b", "/page", "/a"]
    assert found[1][1] == b"<p>/page</p>"
    assert artifact.manifest.counts["documents_out"] == 3


def test_every_failure_has_its_reason(session: Session, site: Any, tmp_path: Path) -> None:
    base = address(site)
    paths = ["ok", "private/x", "missing", "large", "slow", "drip", "loop", "out"]
    urls = [
        *(f"{base}/{path}" for path in paths),
        "ftp://x/ftp",
        "http://u:p@127.0.0.1/login",
        "http://nohost.invalid/dns",
    ]
    artifact = run(session, "data.collect.urls", configuration(tmp_path, urls)).artifact
    assert reasons(artifact) == {
        "x": "robots",
        "missing": "http_status",
        "large": "too_large",
        "slow": "timeout",
        "drip": "timeout",
        "loop": "redirects",
        "out": "bad_url",
        "ftp": "bad_url",
        "login": "bad_url",
        "dns": "dns",
    }
    assert "/private/x" not in site.seen


def test_robots_can_be_ignored(session: Session, site: Any, tmp_path: Path) -> None:
    config = configuration(tmp_path, [f"{address(site)}/private/x"], robots=False)
    assert run(session, "data.collect.urls", config).artifact.manifest.counts["documents_out"] == 1


def test_private_addresses_are_not_fetched(session: Session, site: Any, tmp_path: Path) -> None:
    port = site.server_address[1]
    urls = [f"http://127.0.0.1:{port}/a", f"http://localhost:{port}/a", f"http://[::ffff:127.0.0.1]:{port}/a"]
    with pytest.raises(InputError, match="private_address 3"):
        run(session, "data.collect.urls", configuration(tmp_path, urls, allow_private=False))
    assert site.seen == []


def test_a_fetched_page_is_not_fetched_again(
    session: Session, site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import longcat.stages.data.collect.url_crawl as crawl

    base = address(site)
    config = configuration(tmp_path, [f"{base}/{i}" for i in range(4)])

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(crawl, "_assemble", killed)
        with pytest.raises(KeyboardInterrupt):
            run(session, "data.collect.urls", config)
    artifact = run(session, "data.collect.urls", config).artifact
    assert artifact.manifest.counts["documents_out"] == 4
    assert site.seen.count("/0") == 1


@pytest.mark.parametrize("harm", ["delete", "shorten", "record"])
def test_a_damaged_fetched_page_is_fetched_again(
    session: Session, site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    import longcat.stages.data.collect.url_crawl as crawl

    base = address(site)
    config = configuration(tmp_path, [f"{base}/{i}" for i in range(3)])
    with monkeypatch.context() as patch:
        patch.setattr(crawl, "_assemble", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(session, "data.collect.urls", config)
    (pages,) = session.store.root.glob(".staging/*/work/pages")
    if harm == "delete":
        (pages / "00000001.warc.gz").unlink()
    elif harm == "shorten":
        (pages / "00000001.warc.gz").write_bytes(b"x")
    else:
        (pages / "00000001.json").write_bytes(b"{")
    artifact = run(session, "data.collect.urls", config).artifact
    assert artifact.manifest.counts["documents_out"] == 3
    assert [site.seen.count(f"/{i}") for i in range(3)] == [1, 2, 1]


@pytest.mark.parametrize("text", ["", "# nothing\n\n"])
def test_an_empty_list_is_a_clear_error(session: Session, tmp_path: Path, text: str) -> None:
    path = tmp_path / "urls.txt"
    path.write_text(text)
    with pytest.raises(InputError, match="no URLs in the file"):
        run(session, "data.collect.urls", {"url_file": str(path)})


def test_a_missing_list_is_a_clear_error(session: Session, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        run(session, "data.collect.urls", {"url_file": str(tmp_path / "none.txt")})


def test_the_total_timeout_applies_to_slow_headers(session: Session, site: Any, tmp_path: Path) -> None:
    base = address(site)
    started = time.monotonic()
    artifact = run(
        session, "data.collect.urls", configuration(tmp_path, [f"{base}/ok", f"{base}/drip-header"])
    ).artifact
    assert reasons(artifact) == {"drip-header": "timeout"}
    assert time.monotonic() - started < 5


def test_a_hanging_lookup_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *arguments, **more: time.sleep(1) or [])
    with pytest.raises(httpcore.TimeoutException):
        GuardedBackend(allowed=False).resolve("slow.example", 80, 0.1)


def test_a_list_that_failed_temporarily_is_retried(session: Session, site: Any, tmp_path: Path) -> None:
    """The server is down at first: the run fails, and the same command succeeds when it is up."""
    config = configuration(tmp_path, [f"{address(site)}/a"], robots=False)
    away, site.RequestHandlerClass = site.RequestHandlerClass, Away
    with pytest.raises(InputError, match="network 1"):
        run(session, "data.collect.urls", config)
    site.RequestHandlerClass = away
    assert run(session, "data.collect.urls", config).artifact.manifest.counts["documents_out"] == 1


class Away(BaseHTTPRequestHandler):
    """Closes every connection immediately."""

    def handle(self) -> None:
        self.connection.close()


def test_no_redirect_ends_the_run(session: Session, site: Any, tmp_path: Path) -> None:
    base = address(site)
    artifact = run(
        session, "data.collect.urls", configuration(tmp_path, [f"{base}/ok", *(base + path for path in LOCATIONS)])
    ).artifact
    assert reasons(artifact) == {path[1:]: "bad_url" for path in LOCATIONS}
    assert artifact.manifest.counts["documents_out"] == 1


def test_no_line_of_the_list_ends_the_run(session: Session, site: Any, tmp_path: Path) -> None:
    lines = [
        *(b"http://[::1", b"http://a:99999/", b"http://a:port/", b"http://\xc3\xa9\xff.example/", b"http://a\x00b/x"),
        *(b"//host/x", b"javascript:x", b"http:///x", b"http://2130706433/", b"http://0x7f.1/", b"no URL at all"),
        *(b"http://a..b/", "http://\u0661\u0662.example/".encode(), b"\x1b[31m", b"http://" + b"a" * 100_000),
        *(b"\xff\xfe", f"{address(site)}/ok".encode()),
    ]
    config = configuration(tmp_path, [])
    (tmp_path / "urls.txt").write_bytes(b"\xef\xbb\xbf# a list with a byte order mark\n" + b"\n".join(lines))
    artifact = run(session, "data.collect.urls", config).artifact
    counts = artifact.manifest.counts
    assert (counts["documents_out"], counts["dropped"]) == (1, {"bad_url": len(lines) - 1})
    written = artifact.file("failures.jsonl").read_text()
    assert all(len(line) < 20_000 for line in written.splitlines())


class Misled(Handler):
    """Its robots.txt redirects to an invalid address."""

    def do_GET(self) -> None:
        if self.path == "/robots.txt":
            self.answer(302, b"", location="http://[::1")
        else:
            super().do_GET()


def test_a_robots_file_with_an_invalid_redirect_forbids(session: Session, site: Any, tmp_path: Path) -> None:
    site.RequestHandlerClass = Misled
    with pytest.raises(InputError, match=r"could be fetched: robots 1"):
        run(session, "data.collect.urls", configuration(tmp_path, [f"{address(site)}/a"]))
    assert "/a" not in site.seen


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("call", ["create_connection", "getaddrinfo"])
def test_a_local_system_error_is_not_a_fault_of_the_url(
    monkeypatch: pytest.MonkeyPatch, session: Session, site: Any, tmp_path: Path, call: str, times: int
) -> None:
    monkeypatch.setattr(faults, "RETRY_SECONDS", 0.0)
    left, plain = [times], getattr(socket, call)
    raised = OSError(errno.EMFILE, "Too many open files")

    def fail(*given: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise raised if call == "create_connection" else socket.gaierror(socket.EAI_SYSTEM, "System error")
        return plain(*given, **options)

    monkeypatch.setattr(socket, call, fail)
    config = configuration(tmp_path, [f"{address(site)}/page"])
    if times == 1:
        assert run(session, "data.collect.urls", config).artifact.manifest.counts["dropped"] == {}
        return
    with pytest.raises(MachineError, match=f"fetching {address(site)}/"):
        run(session, "data.collect.urls", config)
    assert not list(session.store.root.glob("crawl/*"))
