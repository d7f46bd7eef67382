"""Command line: Typer commands that parse options, call a stage or the runner, and print; no torch at import."""
