"""The local crawl: its content, exclusions, and reproducibility."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest
from warcio.archiveiterator import ArchiveIterator

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import InputError, MachineError
from longcat.pipeline.runner import Session
from longcat.pipeline.runner import run_stage as run
from longcat.stages.data.collect import render as render_module
from longcat.stages.data.collect.candidates import Candidate, find_candidates, machine_fingerprint
from longcat.stages.data.collect.config import LocalConfig
from longcat.stages.data.collect.render import SCRIPT, NoPageError, render


def records(artifact: Artifact) -> list[tuple[str, str, bytes, str]]:
    found = []
    for path in sorted(artifact.path.glob("crawl-*.warc.gz")):
        with path.open("rb") as stream:
            for record in ArchiveIterator(stream, check_digests="raise"):
                assert record.rec_type == "response"
                headers = record.rec_headers
                found.append(
                    (
                        headers.get_header("WARC-Target-URI"),
                        headers.get_header("WARC-Record-ID"),
                        record.content_stream().read(),
                        record.http_headers.get_header("Content-Type"),
                    )
                )
    return found


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "doc"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.html").write_text(f"<html><body><p>page {name}</p></body></html>")
    (folder / "link.html").symlink_to("/etc/passwd")
    (folder / "note.txt").write_text("no HTML")
    return folder


def test_every_kind_is_in_a_small_crawl(session: Session, documents: Path) -> None:
    config = {"limit": 8, "html_folders": [str(documents)], "packages": ["numpy", "pydantic"], "pages_per_file": 3}
    session.engine = LocalEngine(2)
    artifact = run(session, "data.collect.local", config).artifact
    counts = artifact.manifest.counts
    assert set(counts["kinds"]) == {"stdlib", "package", "description", "html"}
    assert counts["documents_in"] == 8 == counts["documents_out"] + sum(counts["dropped"].values())
    found = records(artifact)
    assert len(found) == counts["documents_out"]
    assert len({identifier for _, identifier, _, _ in found}) == len(found)
    assert all(url.startswith("http://localhost/") for url, *_ in found)
    assert {url.split("/")[3] for url, *_ in found} >= {"pydoc", "description"}
    assert [p.name for p in sorted(artifact.path.glob("crawl-*"))] == [f"crawl-0000{i}.warc.gz" for i in range(3)]
    assert not any("passwd" in url or "note" in url for url, *_ in found)
    session.store.remove(artifact)
    session.engine = LocalEngine(1)
    again = run(session, "data.collect.local", config).artifact
    assert [f.sha256 for f in again.manifest.files] == [f.sha256 for f in artifact.manifest.files]


def test_modules_with_side_effects_are_never_candidates() -> None:
    names = {candidate.target for candidate in find_candidates(LocalConfig(kinds=("stdlib", "package")))}
    assert "json.decoder" in names
    for forbidden in ("antigravity", "this", "idlelib", "json.tool.__main__", "test", "turtle", "_ast"):
        assert forbidden not in names
    assert not any("__main__" in name or ".tests" in name for name in names)


def test_a_limit_alternates_between_kinds(documents: Path) -> None:
    chosen = find_candidates(LocalConfig(limit=4, html_folders=(str(documents),), packages=("numpy",)))
    assert [candidate.kind for candidate in chosen] == ["stdlib", "package", "description", "html"]


def test_a_package_is_limited_to_a_share() -> None:
    config = LocalConfig(kinds=("package",), packages=("numpy",), pages_per_package=3)
    assert len(find_candidates(config)) == 3


def test_changed_documents_make_another_crawl(documents: Path) -> None:
    before = machine_fingerprint([str(documents)])
    os.utime(documents / "a.html", (1, 1))
    assert machine_fingerprint([str(documents)])["documents"] != before["documents"]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """Write a module on the path of the child process and render it."""
    import longcat.stages.data.collect.render as rendering

    environment = rendering._environment
    monkeypatch.setattr(rendering, "_environment", lambda home: {**environment(home), "PYTHONPATH": str(tmp_path)})

    def make(text: str, cpu_seconds: int = 5, max_bytes: int = 1 << 20) -> bytes:
        (tmp_path / "toymodule.py").write_text(text)
        return render(
            Candidate("stdlib", "http://localhost/pydoc/toymodule.html", "toymodule", ""), cpu_seconds, max_bytes
        )[1]

    return make


def test_pages_do_not_change_between_runs(module: object) -> None:
    text = "import os, time\nSTART = time.time()\nPID = os.getpid()\ndef f(x=object()): 'Documented.'\nprint('noise')\n"
    first, second = module(text), module(text)  # type: ignore[operator]
    assert first == second
    assert b"Documented." in first
    assert b"noise" not in first
    assert b"0x" not in first
    assert b"toymodule.py" not in first  # no local paths


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError", "import_error"),
        ("raise SystemExit(0)", "import_error"),
        ("import os; os._exit(7)", "crashed"),
        ("while True: pass", "timeout"),
        ("def f(): '''" + "long " * 1000 + "'''", "too_large"),
    ],
)
def test_a_module_without_a_page_has_a_reason(module: object, text: str, reason: str) -> None:
    with pytest.raises(NoPageError, match=reason):
        module(text, cpu_seconds=1, max_bytes=4096)  # type: ignore[operator]


def test_a_distribution_without_a_description_has_an_empty_page(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strict(Message):
        """The metadata of `importlib_metadata`, which replaces the standard library's once it is installed."""

        def __getitem__(self, name: str) -> str:
            raise KeyError(name)

    monkeypatch.setattr(render_module, "metadata", lambda name: Strict())
    with pytest.raises(NoPageError, match="empty"):
        render(Candidate("description", "http://localhost/some", "some", "some"), 10, 1 << 20)


def test_failures_are_counted_and_named(session: Session, tmp_path: Path) -> None:
    (tmp_path / "empty.html").write_text(" ")
    (tmp_path / "good.html").write_text("<p>text</p>")
    artifact = run(session, "data.collect.local", {"kinds": ["html"], "html_folders": [str(tmp_path)]}).artifact
    assert artifact.manifest.counts["dropped"] == {"empty": 1}
    (failure,) = [json.loads(line) for line in artifact.file("failures.jsonl").read_text().splitlines()]
    assert failure["reason"] == "empty"
    assert failure["url"].endswith("/empty.html")


def test_nothing_to_collect_is_a_clear_error(session: Session, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to collect"):
        run(session, "data.collect.local", {"kinds": ["html"], "html_folders": [str(tmp_path)]})


def test_the_child_sees_nothing_of_our_environment(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_SECRET", "tell-nobody")
    page = module("import os\ndef f(): pass\nf.__doc__ = str(dict(os.environ))\n")  # type: ignore[operator]
    assert b"tell-nobody" not in page


ONCE = """
import os, pathlib
count = pathlib.Path({counter!r})
count.write_text(str(int(count.read_text() if count.exists() else 0) + 1))
if int(count.read_text()) <= {times}:
    {what}
def f(): "Documented."
"""
KILL = "os.kill(os.getpid(), {})"


@pytest.fixture
def failing(module: object, tmp_path: Path) -> Callable[[str, int], bytes]:
    """Render a module that runs an action in its first `times` imports."""

    def make(what: str, times: int) -> bytes:
        page: bytes = module(ONCE.format(counter=str(tmp_path / "count"), times=times, what=what))  # type: ignore[operator]
        return page

    return make


@pytest.mark.parametrize("what", [KILL.format(9), KILL.format(15), KILL.format(11), "os._exit(7)"])
def test_a_child_killed_once_loses_no_page(failing: Callable[[str, int], bytes], what: str) -> None:
    assert b"Documented." in failing(what, 1)


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (15, "SIGTERM"), (10, "SIGUSR1")])
def test_a_child_that_is_killed_twice_ends_the_stage(
    failing: Callable[[str, int], bytes], number: int, name: str
) -> None:
    with pytest.raises(MachineError, match=f"toymodule: could not be rendered: it was killed by {name}"):
        failing(KILL.format(number), 2)


@pytest.mark.parametrize("what", [KILL.format(11), KILL.format(6), KILL.format(7), "os._exit(7)"])
def test_a_module_crashed_if_two_children_crashed(failing: Callable[[str, int], bytes], what: str) -> None:
    with pytest.raises(NoPageError, match="crashed"):
        failing(what, 2)


def test_an_ignored_cpu_time_limit_is_a_timeout(module: object) -> None:
    text = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    with pytest.raises(NoPageError, match="timeout"):
        module(text, cpu_seconds=1)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("open('/proc/self/mem', 'rb').read(1)", "Input/output error"),
        ("raise OSError(24, 'Too many open files')", "Too many open files"),
        ("raise MemoryError", "out of memory"),
        (
            "\n    try: raise OSError(5, 'e')\n    except OSError as e: raise ImportError('no') from e",
            "Input/output error",
        ),
    ],
)
def test_a_system_error_during_an_import_is_not_a_fault_of_the_module(
    failing: Callable[[str, int], bytes], tmp_path: Path, what: str, says: str
) -> None:
    assert b"Documented." in failing(what, 1)
    (tmp_path / "count").unlink()
    with pytest.raises(MachineError, match=says):
        failing(what, 2)


def test_a_missing_file_of_a_module_is_a_fault_of_the_module(failing: Callable[[str, int], bytes]) -> None:
    with pytest.raises(NoPageError, match="import_error"):
        failing("open('/no/such/file')", 9)


def test_a_full_folder_for_temporary_files_ends_the_stage(
    module: object, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    text = "".join(f"def f{number}(): 'Documented.'\n" for number in range(400))
    assert len(module(text)) > 20_000  # type: ignore[operator]
    (small_disk / "filler").write_bytes(bytes(500 << 10))
    with pytest.raises(MachineError, match=f"toymodule: could not be rendered: .*{small_disk}"):
        module(text)  # type: ignore[operator]


def test_a_missing_document_ends_the_stage(tmp_path: Path) -> None:
    gone = Candidate("html", "http://localhost/a.html", str(tmp_path / "a.html"), str(tmp_path / "a.html"))
    with pytest.raises(InputError, match="is no longer readable: No such file"):
        render(gone, 5, 1 << 20)


def test_an_unreadable_document_is_not_a_candidate(documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LocalConfig(kinds=("html",), html_folders=(str(documents),))
    before = machine_fingerprint(config.html_folders)["documents"]
    assert len(find_candidates(config)) == 2
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "a.html")
    assert [Path(candidate.target).name for candidate in find_candidates(config)] == ["b.html"]
    assert machine_fingerprint(config.html_folders)["documents"] != before


@pytest.mark.parametrize("address", ["127.0.0.1", "own"])
def test_a_module_cannot_use_the_network(module: object, tmp_path: Path, address: str) -> None:
    if subprocess.run([sys.executable, str(SCRIPT), "--isolated"], check=False).returncode:
        pytest.skip("this kernel does not support network namespaces for users")
    with socket.create_server(("", 0)) as server:
        server.settimeout(0.2)
        host = address if address != "own" else socket.gethostbyname(socket.gethostname())
        connect = f"socket.create_connection(({host!r}, {server.getsockname()[1]}), timeout=5)"
        subprocess.run([sys.executable, "-c", f"import socket; {connect}"], check=True)
        server.accept()[0].close()
        text = f"import socket\ntry:\n    {connect}\n    R = 1\nexcept OSError:\n    pass\ndef f(): 'Documented.'\n"
        page = module(text)  # type: ignore[operator]
        assert b"Documented." in page
        assert b"<strong>R</strong>" not in page
        with pytest.raises(TimeoutError):
            server.accept()
