"""`longcat data ...`: from crawl to packed tokens."""

from __future__ import annotations

import typer

from longcat_cli.stage_command import Spec, add_stage_command

app = typer.Typer(no_args_is_help=True, help="Collect, extract, filter, dedup, train a tokenizer, pack.")
collect = typer.Typer(no_args_is_help=True, help="Make a WARC crawl.")


def register(root: typer.Typer) -> None:
    """Add the group to the command line."""
    add_stage_command(
        collect,
        "local",
        Spec(
            "data.collect.local",
            "A crawl of the documentation this machine has; needs no network.",
            ("longcat data collect local --limit 500 --name crawl",),
        ),
    )
    add_stage_command(
        collect,
        "urls",
        Spec(
            "data.collect.urls",
            "Fetch a list of http(s) URLs into a crawl.",
            ("longcat data collect urls urls.txt --name crawl",),
            positional="url_file",
        ),
    )
    app.add_typer(collect, name="collect")
    for name, spec in SPECS.items():
        add_stage_command(app, name, spec)
    root.add_typer(app, name="data")


SPECS = {
    "extract": Spec(
        "data.extract",
        "Crawl, HTML, JSONL, Parquet, text, markdown or source code to documents.",
        (
            "longcat data extract --crawl crawl --name extracted",
            "longcat data extract --input 'crawls/*.warc.gz' --input notes/ --name extracted",
        ),
    ),
    "filter": Spec(
        "data.filter",
        "Keep documents by language and quality rules.",
        (
            "longcat data filter --documents extracted --name filtered",
            "longcat data filter --documents extracted --set gopher_quality.min_words=30 --name filtered",
        ),
    ),
    "dedup": Spec(
        "data.dedup",
        "Drop exact and near duplicates (MinHash-LSH).",
        ("longcat data dedup --documents filtered --name deduped",),
    ),
    "tokenizer": Spec(
        "data.tokenizer",
        "Train a byte-level BPE tokenizer.",
        ("longcat data tokenizer --documents deduped --vocab-size 8192 --name tokenizer",),
    ),
    "pack": Spec(
        "data.pack",
        "Tokenize documents into training and validation token files.",
        ("longcat data pack --documents deduped --tokenizer tokenizer --name tokens",),
    ),
}
