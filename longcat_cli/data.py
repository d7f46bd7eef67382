"""`longcat data ...`: from crawl to packed tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.cli import completion
from longcat.cli.settings import settings_of
from longcat.cli.stage_command import add_stage_command
from longcat.cli.stage_spec import Spec

if TYPE_CHECKING:
    from longcat.pipeline.artifact import Artifact
    from longcat.pipeline.store import Store

app = typer.Typer(
    no_args_is_help=True,
    help="Collect, extract, filter, dedup, decontaminate, train a tokenizer, score, pack, mix.\n\n"
    "Example: [cyan]longcat data extract site/ --name extracted[/cyan]",
)
collect = typer.Typer(
    no_args_is_help=True,
    help="Make a WARC crawl.\n\nExample: [cyan]longcat data collect urls urls.txt --name crawl[/cyan]",
)


def register(root: typer.Typer) -> None:
    """Register the command group."""
    add_stage_command(
        collect,
        "local",
        Spec(
            "data.collect.local",
            "Make a crawl of the documentation installed on this machine; needs no network.",
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
    app.command("inspect")(inspect)
    root.add_typer(app, name="data")


def inspect(
    ctx: typer.Context,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="A filtered artifact, other documents or tokens: name, id prefix or folder.",
            autocompletion=completion.references("documents", "tokens"),
        ),
    ],
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            metavar="FAMILY.RULE",
            help="Show only this rule (default: all rules that dropped documents).",
            autocompletion=completion.filter_rules,
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="family.threshold=value: show what would change; nothing is written.",
            autocompletion=completion.settings_of_stage("data.filter"),
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", min=0, max=50, help="Number of examples on each side of a threshold.")
    ] = 2,
    bins: Annotated[int, typer.Option("--bins", min=2, max=50, help="Number of bars per histogram.")] = 10,
    lengths: Annotated[
        bool,
        typer.Option("--lengths", help="Show documents by length, also of a filtered artifact; reads all texts."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show what the filter dropped and why: counts, a histogram per rule, examples nearest to each threshold.

    Of other documents and of tokens, show how many there are by length.

    Examples:

      [cyan]longcat data inspect filtered --set gopher_quality.min_words=80[/cyan]

      [cyan]longcat data inspect tokens[/cyan]
    """
    from longcat.pipeline.config import parse_assignments
    from longcat.pipeline.errors import UsageError

    store = settings_of(ctx).open_store()
    changes = parse_assignments(assignments or [])
    artifact = store.take(reference)
    if not lengths and artifact.manifest.stage == "data.filter":
        shown = {"changes": changes, "rules": tuple(rules or ()), "examples": examples, "bins": bins}
        _print_rules(store, artifact, shown, as_json=as_json)
        return
    if rules or changes:
        raise UsageError(
            "--rule and --set are for the rules of a filtered artifact, this shows lengths",
            hint="leave them out, or pass an artifact of data filter",
        )
    _print_lengths(artifact, as_json=as_json)


def _print_rules(store: Store, artifact: Artifact, shown: Mapping[str, Any], *, as_json: bool) -> None:
    from longcat.cli.console import err, print_json
    from longcat.cli.filter_report import print_report
    from longcat.pipeline.errors import MissingArtifactError
    from longcat.stages.data.inspect.report import report

    sources = []
    try:
        sources = [store.resolve(given.id) for given in artifact.manifest.inputs.get("documents", [])]
    except MissingArtifactError:
        err().print("the filter's input is no longer in the store; examples are shown without text")
    found = report(artifact, sources, **shown)
    if as_json:
        print_json(found)
    else:
        print_report(found)


def _print_lengths(artifact: Artifact, *, as_json: bool) -> None:
    from longcat.cli.console import out, print_json
    from longcat.cli.render import records_table
    from longcat.stages.data.inspect.lengths import lengths_report

    found = lengths_report(artifact)
    if as_json:
        print_json(found)
        return
    for title, rows in found["tables"].items():
        out().print(records_table(f"{title} by length", rows))


SPECS = {
    "extract": Spec(
        "data.extract",
        "Crawl, HTML, JSONL, Parquet, text, markdown, notebooks or source code to documents.",
        (
            "longcat data extract --crawl crawl --name extracted",
            "longcat data extract site/ notes.jsonl --name extracted",
            "longcat data extract 'crawls/*.warc.gz' --format warc --name extracted",
        ),
        positional="input",
    ),
    "filter": Spec(
        "data.filter",
        "Keep documents that pass language and quality rules.",
        (
            "longcat data filter --documents extracted --name filtered",
            "longcat data filter --documents web --documents books --name filtered",
            "longcat data filter --documents extracted --blocklist domains.txt --name filtered",
            "longcat data filter --documents extracted --set gopher_quality.min_words=30 --name filtered",
        ),
        options={"blocklists": "--blocklist"},
    ),
    "repositories": Spec(
        "data.repositories",
        "Join the files of code repositories to one document each, what is imported first.",
        (
            "longcat data repositories project/ other.tar.gz --name repositories",
            "longcat data repositories --documents code --set path_key=file --name repositories",
        ),
        positional="input",
    ),
    "key-values": Spec(
        "data.key-values",
        "Make up facts of keys and values, alone or among other text, to train recall.",
        (
            "longcat data key-values --facts 8 --mentions 4 --name facts",
            "longcat data key-values --tokens tokens --length 4096 --facts 64 --name facts-4k",
        ),
    ),
    "train-quality": Spec(
        "data.train-quality",
        "Train a fastText quality classifier for the filter.",
        (
            "longcat data train-quality --positives good --negatives bad --name quality",
            "longcat data train-quality --labelled rated --label-key quality --name quality",
            "longcat data filter --documents extracted --classifier quality --name filtered",
        ),
    ),
    "dedup": Spec(
        "data.dedup",
        "Drop exact and near duplicates (MinHash-LSH).",
        (
            "longcat data dedup --documents filtered --name deduped",
            "longcat data dedup --documents filtered --against published --name new",
        ),
        roles={"against": "Earlier documents artifact whose duplicates are dropped; it is not written again"},
    ),
    "decontaminate": Spec(
        "data.decontaminate",
        "Remove benchmark items: exact, re-wrapped, short and paraphrased ones.",
        ("longcat data decontaminate --documents deduped --benchmark gsm8k_test.jsonl:question,answer --name clean",),
        options={"benchmarks": "--benchmark"},
    ),
    "tokenizer": Spec(
        "data.tokenizer",
        "Train a byte-level BPE tokenizer.",
        ("longcat data tokenizer --documents deduped --vocab-size 8192 --name tokenizer",),
    ),
    "score": Spec(
        "data.score",
        "Score documents by quality and diversity, for mixing by them.",
        (
            "longcat data score --documents web --documents code --classifier quality --name scores",
            "longcat data pack --documents web --tokenizer tokenizer --scores scores --name web-tokens",
        ),
    ),
    "pack": Spec(
        "data.pack",
        "Tokenize documents into training and validation token files.",
        ("longcat data pack --documents deduped --tokenizer tokenizer --name tokens",),
    ),
    "mix": Spec(
        "data.mix",
        "Mix token files of several sources in given proportions, stage by stage.",
        (
            "longcat data mix --tokens web --tokens code --set weights='[7, 3]' --name mixture",
            "longcat data mix --tokens web --tokens code --config curriculum.yaml --name mixture",
            "longcat data mix --tokens web --tokens code --sampling samplemix --token-budget 2000000 --name mixture",
        ),
    ),
}
