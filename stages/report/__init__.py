"""HTML page about training runs, written by `longcat report`.

`runs` resolves references, `metrics` reads records into columns, `reduce` downsamples curves, `panels` defines the
plots, `summary` the tables, and `page` writes one self-contained file.
"""
