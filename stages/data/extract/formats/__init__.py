"""Input formats, one class each: file names, content types and reading."""
