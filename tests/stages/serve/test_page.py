"""The chat page: files, headers, and nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files

import httpx
import pytest

from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.serve import page
from longcat.stages.serve.page import HEADERS, MEDIA_TYPES
from tests.stages.serve.conftest import Serve

FOLDER = files(page.__name__)
# The namespace of SVG is a name, not an address that is fetched.
NAMESPACE = "http://www.w3.org/2000/svg"


def text_of(name: str) -> str:
    return FOLDER.joinpath(name).read_text("utf-8").replace(NAMESPACE, "")


def test_the_page_and_its_files_are_served_without_a_key_and_with_strict_headers(
    engine: InferenceEngine, serve: Serve
) -> None:
    with serve(engine, api_keys=("secret",)).client() as client:
        answers = {name: client.get(f"/page/{name}") for name in MEDIA_TYPES} | {"/": client.get("/")}
    for name, answer in answers.items():
        assert answer.status_code == 200, name
        assert {key: answer.headers.get(key) for key in HEADERS} == HEADERS, name
        assert answer.headers["content-type"] == MEDIA_TYPES.get(name, MEDIA_TYPES["index.html"])
        source = "index.html" if name == "/" else name
        assert answer.content == FOLDER.joinpath(source).read_bytes()


def test_the_policy_allows_only_files_of_this_server() -> None:
    policy = dict(part.split(" ", 1) for part in page.POLICY.split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert {policy[kind] for kind in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert "unsafe" not in page.POLICY


@pytest.mark.parametrize("path", ["/page/none.js", "/page/__init__.py", "/page/..%2fapi.py", "/page/", "/page"])
def test_only_files_of_the_page_are_served(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "error" in answer.json()


def test_the_page_can_be_left_out(engine: InferenceEngine, serve: Serve) -> None:
    with serve(engine, page=False).client() as client:
        assert client.get("/").status_code == client.get("/page/app.js").status_code == 404
        assert client.get("/health").status_code == 200


def test_every_file_of_the_folder_has_a_media_type() -> None:
    found = {path.name for path in FOLDER.iterdir() if path.is_file() and not path.name.endswith((".py", ".pyc"))}
    assert found == MEDIA_TYPES.keys()


@pytest.mark.parametrize("name", MEDIA_TYPES)
def test_no_file_names_another_host_or_makes_markup_of_text(name: str) -> None:
    text = text_of(name)
    assert not re.search(r"(?:https?:)?//[\w-]+\.\w", text)
    assert "@import" not in text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser", text)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.references: set[str] = set()
        self.inline: list[str] = []
        self.fields: list[tuple[str, str | None]] = []
        self.labelled: set[str | None] = set()
        self._labels = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.references |= {value for name in ("src", "href") if (value := given.get(name))}
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        if tag == "label":
            self._labels += 1
            self.labelled.add(given.get("for"))
        if tag in ("input", "textarea", "select") and not self._labels:
            self.fields.append((tag, given.get("id")))

    def handle_endtag(self, tag: str) -> None:
        if tag == "label":
            self._labels -= 1


def test_the_page_refers_to_its_files_only_and_labels_every_field() -> None:
    parsed = _Page()
    parsed.feed(text_of("index.html"))
    assert parsed.references == {"#message", "page/icon.svg", "page/style.css", "page/app.js"}
    assert parsed.inline == []
    assert [field for field in parsed.fields if field[1] not in parsed.labelled] == []


def test_scripts_import_files_of_the_page_only() -> None:
    for name in MEDIA_TYPES:
        for imported in re.findall(r'from "([^"]+)"', text_of(name)) if name.endswith(".js") else ():
            assert imported.removeprefix("./") in MEDIA_TYPES
