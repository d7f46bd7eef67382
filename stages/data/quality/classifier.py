"""The quality classifier at work: from a text to the probability that it is a good one."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import InputError, IntegrityError
from longcat.pipeline.files import sha256_file

STAGE = "data.train-quality"
MODEL_NAME = "quality.bin"
POSITIVE, NEGATIVE = "__label__positive", "__label__negative"
# The head of a file that fastText can read: magic number and format version.
_HEAD = struct.pack("<ii", 793712314, 12)
_WORD = re.compile(r"\w+|[^\w\s]")


def normalize(text: str, limit: int) -> str:
    """One line for fastText: words in lower case and signs, apart, of the first `limit` characters."""
    words = _WORD.findall(text[:limit].lower())
    # A word like this would be read as a label.
    return " ".join(words).replace("__label__", "label")


def classifier_path(artifact: Artifact) -> Path:
    """The model's file in an artifact.

    Raises:
        InputError: the artifact holds no quality classifier.
        IntegrityError: its bytes are not those that were written.
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
        raise IntegrityError("its sha256 is not the manifest's", where=str(path), hint="longcat artifacts verify")
    return path


class QualityClassifier:
    """Scores texts.

    Raises:
        InputError: the file is no fastText model, or its labels are not those of a quality classifier.
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
                f"a classifier of another kind: its labels are {found}",
                where=str(path),
                hint=f"{STAGE} makes one with {POSITIVE} and {NEGATIVE}",
            )

    def score(self, text: str, limit: int) -> float:
        """Probability, 0 to 1, that a text is good, from its first `limit` characters; 0 without a word."""
        line = normalize(text, limit)
        if not line:
            return 0.0
        labels, probabilities = self._model.predict(line, k=2)
        by_label = dict(zip(labels, probabilities, strict=True))
        return min(1.0, float(by_label.get(POSITIVE, 0.0)))
