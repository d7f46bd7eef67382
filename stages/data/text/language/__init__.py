"""Language identification with fastText's lid.176 (Joulin et al. 2016): 176 languages, 0.9 MB.

The model is next to this file, with its licence and attribution in NOTICE.md.
"""

from __future__ import annotations

import os
from pathlib import Path

from longcat.pipeline.errors import InputError, IntegrityError
from longcat.pipeline.files import sha256_file
from longcat.stages.data.text.points import unpointed

MODEL_NAME = "lid.176.ftz"
MODEL_BYTES = 938_013
MODEL_SHA256 = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
MODEL_VARIABLE = "LONGCAT_LID_MODEL"
REMEDY = f"reinstall longcat-cli, or set {MODEL_VARIABLE} to a copy of the file"
REMEDY_GIVEN = f"unset {MODEL_VARIABLE}, the model comes with longcat-cli"

PREDICT_BYTES = 4096
UNKNOWN = "und"


def language_model_path() -> Path:
    """Expected path of the model: $LONGCAT_LID_MODEL, else next to this module."""
    given = os.environ.get(MODEL_VARIABLE)
    return Path(given).expanduser() if given else Path(__file__).with_name(MODEL_NAME)


def ensure_language_model() -> Path:
    """Path of the model, after its digest is verified.

    Raises:
        InputError: it is missing; the hint says how to get it.
        IntegrityError: the file is a different one.
    """
    path = language_model_path()
    hint = REMEDY_GIVEN if os.environ.get(MODEL_VARIABLE) else REMEDY
    if not path.is_file():
        raise InputError("the language model is missing", where=str(path), hint=hint)
    if path.stat().st_size != MODEL_BYTES or sha256_file(path) != MODEL_SHA256:
        raise IntegrityError(f"this is not {MODEL_NAME} (its sha256 differs)", where=str(path), hint=hint)
    return path


class LanguageIdentifier:
    """Identifies the language of a text."""

    def __init__(self, path: Path | None = None) -> None:
        """Load the model; see `ensure_language_model` for the errors."""
        import fasttext

        self._model = fasttext.load_model(str(path or ensure_language_model()))

    def predict(self, text: str) -> tuple[str, float]:
        """ISO 639 code and probability from the first 4 kB of `text`; `("und", 0.0)` without words.

        The model knows no pointed Arabic and Hebrew, so points are left out of such texts.
        """
        head = text.encode("utf-8", "ignore")[:PREDICT_BYTES].decode("utf-8", "ignore")
        line = " ".join(unpointed(head).split())
        if not line:
            return UNKNOWN, 0.0
        labels, probabilities = self._model.predict(line)
        if not labels:
            return UNKNOWN, 0.0
        return labels[0].removeprefix("__label__"), min(1.0, float(probabilities[0]))
