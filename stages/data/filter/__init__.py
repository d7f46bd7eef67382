"""The stage `data.filter`: keeps the documents that pass the published quality rules, and says why the others go."""

from __future__ import annotations

from collections import Counter

from longcat.pipeline.documents import document_shards
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.filter.config import FilterConfig


@stage("data.filter", revision=3, inputs={"documents": "documents", "classifier": "report?"}, output="documents")
def filter_documents(context: Context[FilterConfig]) -> Result:
    """Drop documents that break a rule of language, Gopher, C4 or FineWeb; C4's line rules clean the rest.

    With a classifier from `data train-quality` the family `quality` judges too.

    Writes for every input shard one shard of kept documents and, beside it, `attributes-XXXXX.parquet` with one row
    a document in: id, kind, language, decision, reason and every measured value.

    Raises:
        InputError: the input holds no documents, the language model is missing, or the classifier is of another kind.
        IntegrityError: a shard or the classifier is damaged.
    """
    from longcat.pipeline.errors import InputError
    from longcat.stages.data.filter.shard import Task, filter_shard
    from longcat.stages.data.filter.sites import find_templates
    from longcat.stages.data.language import ensure_language_model
    from longcat.stages.data.quality.classifier import QualityClassifier, classifier_path

    if context.config.language.enabled:
        ensure_language_model()
    classifier = None
    if (given := context.optional("classifier")) is not None:
        classifier = classifier_path(given)
        QualityClassifier(classifier)
    documents = context.input("documents")
    shards = document_shards(documents)
    templates, n_templates = find_templates(context) if context.config.sites.enabled else ((), 0)
    tasks = [
        Task(shard, number, context.output, context.config, classifier, templates)
        for number, shard in enumerate(shards)
    ]
    results = context.map_shards(filter_shard, tasks, description="filtering")
    totals: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for result in results:
        dropped.update(result.pop("dropped"))
        totals.update(result)
    if not totals["documents_in"]:
        raise InputError("there are no documents to filter", where=str(documents.path))
    return Result(
        counts={
            "documents_in": totals["documents_in"],
            "documents_out": totals["documents_out"],
            "dropped": dict(sorted(dropped.items())),
        },
        metrics={
            "kept_fraction": round(totals["documents_out"] / totals["documents_in"], 6),
            "characters_in": totals["characters_in"],
            "characters_out": totals["characters_out"],
            "documents_edited": totals["documents_edited"],
            "lines_removed": totals["lines_removed"],
            "site_lines_found": n_templates,
            "site_lines_removed": totals["site_lines_removed"],
        },
    )
