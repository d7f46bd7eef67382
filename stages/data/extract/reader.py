"""Reading of records from one input file of any format."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator

from longcat.pipeline.errors import InputError
from longcat.pipeline.faults import open_input
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.formats.registry import FORMATS
from longcat.stages.data.extract.parts import Part
from longcat.stages.data.extract.records import InputFile, Problem, Record


def read_file(
    file: InputFile, config: ExtractConfig, tally: Counter[str], part: Part | None = None
) -> Iterator[Record | Problem]:
    """Yield the records of `file`, or of one part of it, in order, with problems for unusable ones.

    WARC records of other types are only counted, as `other_records` in `tally`.

    Raises:
        InputError: the file lacks the configured column, is missing, or is not readable.
        MachineError: it could not be read, twice; not counted as damage of its content.
    """
    try:
        with open_input(file.path) as stream:
            yield from FORMATS[file.format].read(stream, part or Part(file), config, tally)
    except OSError as error:
        hint = "do not move it while the command runs, and run again"
        if error.errno in (errno.EACCES, errno.EPERM):
            hint = "make it readable, or exclude it"
        raise InputError(f"cannot be read: {error.strerror or error}", where=str(file.path), hint=hint) from None
