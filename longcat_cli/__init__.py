"""The door: Typer commands that parse, call a stage or the runner, and render. No logic, no torch at import."""
