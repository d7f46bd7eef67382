"""The chat page in headless Chromium, beside a scripted model. `make test-page` installs what this needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from longcat.stages.inference.engine import InferenceEngine
from tests.stages.serve.conftest import Serve
from tests.stages.serve.fake_model import HOSTILE, LAYERS, FakeModel, serving

playwright = pytest.importorskip("playwright.sync_api", reason="`make test-page` installs playwright")
CHROMIUM = os.environ.get("LONGCAT_CHROMIUM") or shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no chromium on PATH; `make test-page` installs it", allow_module_level=True)

# Only the page's own server is contacted.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
NO_TEMPLATE = {"message": "this tokenizer has no chat template", "param": "messages"}
PHONE = {"width": 390, "height": 844}
Open = Callable[..., Any]
# Contrast of WCAG 2.2 between the colours of a token's text and background.
CONTRAST = """tokens => tokens.map(token => {
  const light = colour => {
    const [r, g, b] = colour.match(/\\d+/g).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const style = getComputedStyle(token);
  const [a, b] = [light(style.color), light(style.backgroundColor)];
  return Math.max(a, b) / Math.min(a, b);
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Open the page of a fake model, or at an address; the test fails if it had an error or asked another host."""
    with ExitStack() as stack:

        def opened(fake: FakeModel | str, **options: Any) -> Any:
            url = fake if isinstance(fake, str) else stack.enter_context(serving(fake))
            context = browser.new_context(**options)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(15_000)
            problems: list[str] = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("request", lambda one: None if one.url.startswith(url) else problems.append(one.url))
            page.on("dialog", lambda dialog: problems.append(f"dialog {dialog.message}"))
            page.on("console", lambda line: problems.append(line.text) if "Content Security" in line.text else None)
            stack.callback(lambda: pytest.fail(f"{problems}") if problems else None)
            page.goto(url)
            return page

        yield opened


def say(page: Any, text: str) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")


def answered(page: Any, number: int = 1) -> Any:
    """Wait for the figures of an answer; returns its article."""
    article = page.locator("article[data-role=assistant]").nth(number - 1)
    article.locator("footer").wait_for()
    return article


def test_an_answer_streams_as_text_with_its_figures(open_page: Open) -> None:
    page = open_page(FakeModel())
    page.wait_for_function("document.title === 'tiny-flash - longcat'")
    say(page, "Hello")
    article = answered(page)
    assert article.locator(".text").inner_text() == f"The answer {HOSTILE} is here."
    assert page.locator("#log img").count() == 0
    figures = article.locator("footer").inner_text()
    for part in ("6 tokens, ", " tokens/s", "first token after ", "75 % of 4 drafts accepted", "32 of 40 prompt"):
        assert part in figures
    assert article.get_attribute("aria-busy") == "false"
    assert page.locator("#message").input_value() == ""


def test_reasoning_is_folded(open_page: Open) -> None:
    page = open_page(FakeModel(reasoning=["I", " think"]))
    say(page, "Hello")
    article = answered(page)
    folded = article.locator("details")
    assert folded.get_attribute("open") is None
    folded.locator("summary").click()
    assert folded.locator(".text").inner_text() == "I think"
    say(page, "And now?")
    answered(page, 2)


def test_tokens_have_colours_and_details_by_layer(open_page: Open) -> None:
    page = open_page(FakeModel())
    say(page, "Hello")
    tokens = answered(page).locator(".token")
    assert tokens.count() == 6
    levels = [tokens.nth(at).get_attribute("data-level") for at in range(6)]
    assert levels[0] == "0"
    assert "7" in levels
    assert page.locator("#range").inner_text().startswith("3 (left) to ")
    tokens.nth(1).hover()
    rows = page.locator("#inspector li")
    assert [rows.nth(at).inner_text().strip() for at in range(LAYERS)] == [
        f"layer {layer}: {3 + 2 * layer}" for layer in range(LAYERS)
    ]
    assert '" answer" 6 FFN experts per layer' in page.locator("#inspector").inner_text()
    page.select_option("#layer", "2")
    assert page.locator("#range").inner_text() == "0 (left) to 10 (right) FFN experts in layer 2"
    page.uncheck("#counts")
    assert tokens.nth(1).get_attribute("data-level") is None


def test_tokens_can_be_reached_by_keys(open_page: Open) -> None:
    page = open_page(FakeModel())
    say(page, "Hello")
    place = answered(page).locator(".text")
    page.focus("a.skip")
    for _ in range(20):
        page.keyboard.press("Tab")
        if place.evaluate("element => element === document.activeElement"):
            break
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == " answer"
    assert '" answer"' in page.locator("#inspector").inner_text()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.textContent") == "."


def test_stop_ends_the_answer_and_keeps_it_for_the_next_turn(open_page: Open) -> None:
    fake = FakeModel(endless=True)
    page = open_page(fake)
    say(page, "Hello")
    page.get_by_text("here. more").wait_for()
    page.keyboard.press("Escape")
    article = answered(page)
    assert article.locator("footer").inner_text().endswith("stopped")
    assert fake.left.wait(10)
    said = article.locator(".text").inner_text()
    fake.endless = False
    say(page, "Go on")
    answered(page, 2)
    contents = [message["content"] for message in fake.bodies[1]["messages"]]
    assert contents == ["Hello", said, "Go on"]
    fake.endless = True
    say(page, "Again")
    page.locator("#stop:enabled").click()
    page.locator("#send:enabled").wait_for()


def test_a_new_conversation_during_an_answer_starts_empty(open_page: Open) -> None:
    fake = FakeModel(endless=True)
    page = open_page(fake)
    say(page, "Hello")
    page.get_by_text("here. more").wait_for()
    page.get_by_text("New conversation").click()
    assert fake.left.wait(10)
    fake.endless = False
    say(page, "Other")
    answered(page)
    assert page.locator("article").count() == 2
    assert fake.bodies[1]["messages"] == [{"role": "user", "content": "Other"}]


def test_settings_are_sent_and_empty_ones_are_left_to_the_server(open_page: Open) -> None:
    fake = FakeModel()
    page = open_page(fake)
    say(page, "Hello")
    answered(page)
    chosen = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_tokens": 7, "seed": 3}
    for name, value in chosen.items():
        page.fill(f"[name={name}]", str(value))
    page.fill("[name=system]", "Be brief.")
    say(page, "Again")
    answered(page, 2)
    assert not fake.bodies[0].keys() & chosen.keys()
    assert chosen.items() <= fake.bodies[1].items()
    assert fake.bodies[1]["messages"][0] == {"role": "system", "content": "Be brief."}
    page.fill("[name=top_p]", "7")
    say(page, "Once more")
    page.get_by_text("top_p: ").wait_for()
    assert len(fake.bodies) == 2


def test_a_key_is_asked_for_and_stays_in_the_tab(open_page: Open) -> None:
    page = open_page(FakeModel(key="secret"))
    page.get_by_text("needs an API key").wait_for()
    page.fill("#key", "secret")
    say(page, "Hello")
    answered(page)
    assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
    page.reload()
    page.locator("#model:not(:empty)").wait_for()


def test_an_error_is_shown_as_text_and_the_message_is_given_back(open_page: Open) -> None:
    fake = FakeModel(refuse={"message": f"too long {HOSTILE}", "param": "messages"})
    page = open_page(fake)
    say(page, "Hello")
    page.get_by_text(f"too long {HOSTILE}").wait_for()
    assert page.locator("#message").input_value() == "Hello"
    assert page.locator("article").count() == 0
    fake.refuse = None
    page.click("#send")
    answered(page)
    assert not page.locator("#notice").is_visible()


def test_a_model_without_a_chat_template_is_continued_instead(open_page: Open) -> None:
    fake = FakeModel(refuse=NO_TEMPLATE)
    page = open_page(fake)
    say(page, "The library")
    page.get_by_text("Switched to Complete").wait_for()
    assert page.is_checked("input[value=complete]")
    fake.refuse = None
    page.click("#send")
    assert answered(page).locator(".text").inner_text().startswith("The answer")
    assert fake.bodies[1]["path"] == "/v1/completions"
    assert (fake.bodies[1]["prompt"], fake.bodies[1]["max_tokens"]) == ("The library", 128)


def test_a_default_that_does_not_fit_is_left_to_the_server(open_page: Open) -> None:
    fake = FakeModel(refuse={"message": "too many tokens", "code": "context_length_exceeded"})
    page = open_page(fake)
    page.check("input[value=complete]")
    say(page, "The library")
    page.get_by_text("too many tokens").wait_for()
    assert ["max_tokens" in body for body in fake.bodies] == [True, False]


def test_a_server_without_expert_counts_is_asked_without_them(open_page: Open) -> None:
    fake = FakeModel(refused_field="return_expert_counts")
    page = open_page(fake)
    say(page, "Hello")
    assert answered(page).locator(".token").count() == 0
    page.get_by_text("does not report FFN experts").wait_for()
    say(page, "Again")
    answered(page, 2)
    assert len(fake.bodies) == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_on_every_colour(open_page: Open, scheme: str) -> None:
    page = open_page(FakeModel(), color_scheme=scheme)
    ratios = page.eval_on_selector_all("#legend .token", CONTRAST)
    assert len(ratios) == 8
    assert min(ratios) >= 4.5


def test_a_phone_needs_no_sideways_scrolling_and_shows_a_touched_token(open_page: Open) -> None:
    page = open_page(FakeModel(words=["a" * 300, "."]), viewport=PHONE, has_touch=True)
    say(page, "Hello")
    tokens = answered(page).locator(".token")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tokens.last.tap()
    page.get_by_text('"." 6 FFN experts per layer').first.wait_for()
    assert page.locator("#token").is_visible()


def test_the_server_s_own_counts_colour_the_tokens(open_page: Open, engine: InferenceEngine, serve: Serve) -> None:
    page = open_page(f"{serve(engine).url}/")
    page.fill("[name=temperature]", "0")
    page.fill("[name=max_tokens]", "12")
    for number, text in enumerate(["The quick", "brown fox"], 1):
        page.check("input[value=complete]")
        say(page, text)
        tokens = answered(page, number).locator(".token[data-level]")
        assert 1 <= tokens.count() <= 12
    tokens.first.hover()
    assert page.locator("#inspector li").count() == engine.config.num_layers
    assert "FFN experts per layer" in page.locator("#range").inner_text()
    assert "12 tokens" in answered(page, 2).locator("footer").inner_text()


TOLD = (
    "A mixture of experts sends each token to a few networks only. In this model some of them are empty: "
    "they return their input. So easy tokens cost less, and hard ones more."
)


@pytest.mark.skipif("LONGCAT_SCREENSHOTS" not in os.environ, reason="set LONGCAT_SCREENSHOTS to a folder")
def test_screenshots(open_page: Open) -> None:
    """Write the pictures of the documentation."""
    folder = Path(os.environ["LONGCAT_SCREENSHOTS"])
    views = {"light": ("light", None), "dark": ("dark", None), "phone": ("light", PHONE)}
    for name, (scheme, size) in views.items():
        words = [f" {word}" if at else word for at, word in enumerate(TOLD.split())]
        fake = FakeModel(words=words, reasoning=["The question"])
        page = open_page(fake, color_scheme=scheme, viewport=size or {"width": 1100, "height": 700})
        if size is None:
            page.click("#settings summary")
        say(page, "Why does each token use another number of experts?")
        answered(page).locator(".text > .token").nth(9).hover()
        page.screenshot(path=str(folder / f"page-{name}.png"))
