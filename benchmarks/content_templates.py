"""Pages with known main text: our own texts in the markup of common site generators, shops, forums and news sites.

Each file of `content_templates/pages` is a site. What is between `<!--text-->` and `<!--/text-->` there is the text
of the page, without what is between `<!--not-->` and `<!--/not-->`; `<!--say ...-->` is text that its markup does not
have as such. These comments are not in the pages. `chrome.txt` has the words around the text in 17 languages, `texts`
the running text. Everything was written for this benchmark.

    python benchmarks/content_templates.py PAGES.warc.gz TRUTH.jsonl
    python benchmarks/data_extract.py PAGES.warc.gz --truth TRUTH.jsonl --by-site --peer-python PEER

`content_samples.py` describes the truth. `--examples docs` writes `docs/extract-examples.md`, with `--browser chromium`
also its pictures.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2

from longcat.stages.data.extract.content.tags import words

FOLDER = Path(__file__).parent / "content_templates"
# As the benchmark of web content names the kinds of pages.
TYPES = {
    "article": (
        "wordpress-classic", "wordpress-block", "wordpress-hueman", "ghost", "hugo", "jekyll-minima", "news",
        "news-live", "recipe", "wikipedia", "blogger", "web-component", "cookie-dialog",
    ),
    "documentation": ("mkdocs-material", "sphinx-rtd", "docusaurus", "pydoc", "repository"),
    "forum": ("discourse", "phpbb", "stackexchange"),
    "product": ("shopify-product", "woocommerce-product"),
    "listing": ("magento-listing", "blog-index"),
    "service": ("job", "service"),
}  # fmt: skip
TEMPLATES = {name: kind for kind, names in TYPES.items() for name in names}
RIGHT_TO_LEFT = ("ar", "he")
UNSPACED = ("zh", "ja")
SITE_NAMES = ("Harbour Notes", "Nordwind", "Kiosko", "Tabula", "Mirador")
CODE = (
    ("import math", "", "def area(width, height={n}):", "    # Round up.", "    return math.ceil(width * height)"),
    ("for boat in range({n}):", "    if boat % 2:", "        continue", "    print(boat, sep=';')"),
    ("class Span:", "    length = {n}", "", "    def double(self):", "        return 2 * self.length"),
)
MARKS = re.compile(r"<!--(?:/?text|/?not|say .*?)-->")
BLOCKS = words(
    "p div h1 h2 h3 h4 h5 h6 li ul ol dl dt dd table tr td th caption blockquote pre figure figcaption section article "
    "header footer main aside br summary details button"
)


@dataclass(frozen=True, slots=True)
class Page:
    """One page and its text."""

    id: str
    url: str
    type: str
    language: str
    html: str
    text: str

    def truth(self) -> dict[str, Any]:
        """The line of the truth."""
        return {"id": self.id, "url": self.url, "type": self.type, "text": self.text, "with": [], "without": []}


class Writer:
    """What templates call: words of one language, dealt so that boxes never repeat what the text says."""

    def __init__(self, language: str, rng: random.Random) -> None:
        self.rng = rng
        self.joint = "" if language in UNSPACED else " "
        self.source = {name: list(lines) for name, lines in texts(language).items()}
        for lines in self.source.values():
            rng.shuffle(lines)
        self.asides = [self.source["sentences"].pop() for _ in range(3)]
        self.dealt: dict[str, int] = {}

    def deal(self, name: str) -> tuple[str, int]:
        """The next line of a kind, and how often all of them were dealt before; dealt ones are shuffled again."""
        lines, count = self.source[name], self.dealt.get(name, 0)
        self.dealt[name] = count + 1
        turn, place = divmod(count, len(lines))
        if turn and not place:
            self.rng.shuffle(lines)
        return lines[place], turn

    def s(self) -> str:
        return self.deal("sentences")[0]

    def p(self, most: int = 4) -> str:
        return self.joint.join(self.s() for _ in range(self.rng.randint(2, most)))

    def aside(self) -> str:
        return self.rng.choice(self.asides)

    def title(self) -> str:
        line, turn = self.deal("titles")
        return f"{line}: {self.item()}" if turn else line

    def item(self) -> str:
        line, turn = self.deal("items")
        return f"{line} {turn + 1}" if turn else line

    def name(self) -> str:
        return self.rng.choice(self.source["names"])

    def comment(self) -> str:
        return self.deal("comments")[0]

    def date(self) -> str:
        return f"{self.n(2015, 2024)}-{self.n(1, 12):02}-{self.n(1, 28):02}"

    def price(self) -> str:
        return f"€{self.n(5, 240)}.{self.n(10, 99)}"

    def n(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def pick(self, values: tuple[str, ...]) -> str:
        return self.rng.choice(values)

    def code(self) -> list[str]:
        return [line.replace("{n}", str(self.n(2, 90))) for line in self.rng.choice(CODE)]


@cache
def chrome() -> dict[str, dict[str, str]]:
    """Words around the text, by language and key."""
    rows = [line.split("|") for line in (FOLDER / "chrome.txt").read_text(encoding="utf-8").splitlines()]
    columns = list(zip(*rows, strict=True))
    return {column[0]: dict(zip(columns[0], column, strict=True)) for column in columns[1:]}


@cache
def texts(language: str) -> dict[str, list[str]]:
    """Lines of running text by section of the language's file."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / "texts" / f"{language}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        else:
            lines.append(line)
    return found


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(FOLDER / "pages")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


def render(template: str, number: int, language: str, seed: int = 0) -> Page:
    """A page of a site; the same arguments give the same page."""
    rng = random.Random(f"{seed}/{template}/{number}/{language}")
    writer = Writer(language, rng)
    calls = {name: getattr(writer, name) for name in dir(writer) if not name.startswith("_")}
    url = f"https://{template}.example/{language}/{number}"
    markup = _environment().get_template(f"{template}.html").render(
        **calls, c=chrome()[language], lang=language, dir="rtl" if language in RIGHT_TO_LEFT else "ltr", url=url,
        site_name=rng.choice(SITE_NAMES),
    )  # fmt: skip
    return Page(
        f"{template}-{number:03}", url, TEMPLATES[template], language, MARKS.sub("", markup).lstrip(), text_of(markup)
    )


def pages(count: int = 12, seed: int = 0) -> Iterator[Page]:
    """`count` pages of each site, the languages in turn."""
    languages = list(chrome())
    for index, template in enumerate(TEMPLATES):
        for number in range(count):
            yield render(template, number, languages[(5 * index + number) % len(languages)], seed)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.inside, self.out, self.pre = False, 0, 0

    @property
    def reads(self) -> bool:
        return self.inside and not self.out

    def handle_comment(self, data: str) -> None:
        if data in ("text", "/text"):
            self.inside = data == "text"
            self.parts.append("\n")
        elif data in ("not", "/not"):
            self.out += 1 if data == "not" else -1
        elif data.startswith("say ") and self.reads:
            self.parts.append(data[4:])

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.pre += tag == "pre"
        if self.reads and tag in BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.pre -= tag == "pre"
        if self.reads and tag in BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self.reads:
            self.parts.append(data if self.pre else " ".join(re.split(r"\s+", data)))


def text_of(markup: str) -> str:
    """The text that the comments of a rendered template mark."""
    parser = _Text()
    parser.feed(markup)
    parser.close()
    lines = "".join(parser.parts).replace("\u200b", "").splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())


def write(found: list[Page], crawl: Path, truth: Path) -> None:
    """The pages as a WARC file, and the lines of their truth; the same bytes for the same pages."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    with crawl.open("wb") as stream:
        writer = WARCWriter(stream, gzip=str(crawl).endswith(".gz"))
        for page in found:
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
            record = writer.create_warc_record(
                page.url, "response", payload=io.BytesIO(page.html.encode()), http_headers=headers,
                warc_headers_dict={"WARC-Record-ID": f"<urn:pages:{page.id}>", "WARC-Date": "2024-01-01T00:00:00Z"},
            )  # fmt: skip
            writer.write_record(record)
    lines = [json.dumps(page.truth(), ensure_ascii=False) + "\n" for page in found]
    truth.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("crawl", type=Path, nargs="?", metavar="PAGES.warc.gz")
    parser.add_argument("truth", type=Path, nargs="?", metavar="TRUTH.jsonl")
    parser.add_argument("--count", type=int, default=12, help="pages of each site")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=Path, metavar="DOCS")
    parser.add_argument("--browser")
    options = parser.parse_args()
    if options.examples:
        from content_examples import write as write_examples

        write_examples(options.examples, options.browser)
        return
    if not options.crawl or not options.truth:
        parser.error("PAGES.warc.gz and TRUTH.jsonl are required")
    found = list(pages(options.count, options.seed))
    write(found, options.crawl, options.truth)
    print(f"{len(found)} pages of {len(TEMPLATES)} sites in {len({page.language for page in found})} languages")


if __name__ == "__main__":
    main()
