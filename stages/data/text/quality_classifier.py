"""Quality classifier: probability that a text is of high quality."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import InputError, IntegrityError
from longcat.pipeline.files import sha256_file
from longcat.stages.data.text.character_kinds import kinds_in
from longcat.stages.data.text.characters import JOINERS, marks
from longcat.stages.data.text.script_words import separated

STAGE = "data.train-quality"
MODEL_NAME = "quality.bin"
POSITIVE, NEGATIVE = "__label__positive", "__label__negative"
# Header of a fastText file: magic number and format version.
_HEAD = struct.pack("<ii", 793712314, 12)
_ASCII_WORD = re.compile(r"\w+|[^\w\s]")
_WORD = re.compile(rf"[\w{marks()}{JOINERS}]+|[^\w\s{marks()}{JOINERS}]")


def normalize(text: str, limit: int) -> str:
    """One line for fastText: lower-cased words and punctuation, separated, of the first `limit` characters.

    Words of scripts without blanks are those of the data stages.
    """
    head = text[:limit].lower()
    words = _ASCII_WORD.findall(head) if head.isascii() else _WORD.findall(separated(head, kinds_in(head)))
    # fastText would read such a word as a label.
    return " ".join(words).replace("__label__", "label")


def classifier_path(artifact: Artifact) -> Path:
    """Model file in an artifact.

    Raises:
        InputError: the artifact is not a quality classifier.
        IntegrityError: its bytes have changed.
    """
    if artifact.manifest.stage != STAGE:
        raise InputError(
            f"this was made by {artifact.manifest.stage}; a quality classifier is made by {STAGE}",
            where=str(artifact.path),
            hint="longcat data train-quality --help",
        )
    path = artifact.file(MODEL_NAME)
    known = {entry.path: entry.sha256 for entry in artifact.manifest.files}
    if known.get(MODEL_NAME) != sha256_file(path):
        raise IntegrityError("its sha256 differs from the manifest", where=str(path), hint="longcat artifacts verify")
    return path


class QualityClassifier:
    """Scores texts.

    Raises:
        InputError: the file is not a fastText model, or its labels are not those of a quality classifier.
    """

    def __init__(self, path: Path) -> None:
        import fasttext

        with path.open("rb") as raw:
            head = raw.read(len(_HEAD))
        if head != _HEAD:
            raise InputError("not a fastText model", where=str(path))
        try:
            self._model = fasttext.load_model(str(path))
        except (ValueError, RuntimeError, MemoryError) as error:
            raise InputError(f"fastText cannot read it: {error}", where=str(path)) from None
        labels = set(self._model.labels)
        if labels != {POSITIVE, NEGATIVE}:
            found = ", ".join(sorted(labels)[:5])
            raise InputError(
                f"not a quality classifier: its labels are {found}",
                where=str(path),
                hint=f"{STAGE} makes one with {POSITIVE} and {NEGATIVE}",
            )

    def score(self, text: str, limit: int) -> float:
        """Probability, 0 to 1, that a text is of high quality, from its first `limit` characters; 0 without words."""
        line = normalize(text, limit)
        if not line:
            return 0.0
        labels, probabilities = self._model.predict(line, k=2)
        by_label = dict(zip(labels, probabilities, strict=True))
        return min(1.0, float(by_label.get(POSITIVE, 0.0)))
