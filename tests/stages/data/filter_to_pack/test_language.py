"""The language model: how it is found, checked and used."""

from __future__ import annotations

from pathlib import Path

import pytest

from longcat.pipeline.errors import InputError, IntegrityError
from longcat.stages.data.text import language
from longcat.stages.data.text.language import LanguageIdentifier, ensure_language_model, language_model_path

ENGLISH = "The river rises in the hills to the north of the town and runs for thirty miles. "
GERMAN = "Der Fluss entspringt in den Hügeln nördlich der Stadt und fließt dreißig Meilen weit. "


@pytest.fixture(scope="module")
def identifier() -> LanguageIdentifier:
    return LanguageIdentifier()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "share" / "lid.176.ftz"
    monkeypatch.setenv(language.MODEL_VARIABLE, str(path))
    return path


@pytest.mark.parametrize(("text", "code"), [(ENGLISH, "en"), (GERMAN, "de"), ("这是一条从北方流来的河。", "zh")])
def test_names_the_language(identifier: LanguageIdentifier, text: str, code: str) -> None:
    found, probability = identifier.predict(text)
    assert found == code
    assert 0.5 < probability <= 1


def test_looks_at_the_first_four_kilobytes_only(identifier: LanguageIdentifier) -> None:
    head = (ENGLISH * 100)[: language.PREDICT_BYTES]
    assert identifier.predict(head + GERMAN * 1000) == identifier.predict(head)


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_says_unknown_where_there_is_no_word(identifier: LanguageIdentifier, text: str) -> None:
    assert identifier.predict(text) == ("und", 0.0)


def test_takes_line_breaks_and_broken_unicode(identifier: LanguageIdentifier) -> None:
    assert identifier.predict(ENGLISH.replace(" ", "\n") + "\ud800")[0] == "en"


def test_loading_says_nothing(identifier: LanguageIdentifier, capfd: pytest.CaptureFixture[str]) -> None:
    LanguageIdentifier().predict(ENGLISH)
    assert capfd.readouterr() == ("", "")


def test_the_model_that_comes_with_the_package_is_the_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(language.MODEL_VARIABLE, raising=False)
    path = ensure_language_model()
    assert path == Path(language.__file__).with_name(language.MODEL_NAME)
    notice = path.with_name("NOTICE.md").read_text(encoding="utf-8")
    assert language.MODEL_SHA256 in notice
    assert "CC-BY-SA-3.0" in notice


def test_another_copy_may_be_named(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(language.MODEL_VARIABLE)
    data = ensure_language_model().read_bytes()
    monkeypatch.setenv(language.MODEL_VARIABLE, str(elsewhere))
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(data)
    assert ensure_language_model() == elsewhere


def test_a_missing_copy_names_the_variable(elsewhere: Path) -> None:
    with pytest.raises(InputError, match=r"missing.*unset LONGCAT_LID_MODEL") as caught:
        ensure_language_model()
    assert caught.value.where == str(elsewhere)


def test_a_broken_installation_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(language.MODEL_VARIABLE, raising=False)
    monkeypatch.setattr(language, "__file__", str(tmp_path / "__init__.py"))
    assert language_model_path() == tmp_path / language.MODEL_NAME
    with pytest.raises(InputError, match=r"missing.*reinstall longcat-cli"):
        ensure_language_model()


def test_another_file_is_refused(elsewhere: Path) -> None:
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"\0" * language.MODEL_BYTES)
    with pytest.raises(IntegrityError, match="sha256"):
        ensure_language_model()
