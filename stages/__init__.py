"""Stages that the user runs. The module of a stage is imported on first use."""

from longcat.pipeline.stage import registry

registry.declare(
    {
        "data.collect.local": "longcat.stages.data.collect",
        "data.collect.urls": "longcat.stages.data.collect",
        "data.extract": "longcat.stages.data.extract",
        "data.filter": "longcat.stages.data.filter",
        "data.repositories": "longcat.stages.data.repositories",
        "data.key-values": "longcat.stages.data.key_values",
        "data.train-quality": "longcat.stages.data.quality",
        "data.dedup": "longcat.stages.data.dedup",
        "data.decontaminate": "longcat.stages.data.decontaminate",
        "data.tokenizer": "longcat.stages.data.tokenizer",
        "data.score": "longcat.stages.data.score",
        "data.pack": "longcat.stages.data.pack",
        "data.mix": "longcat.stages.data.mixture",
        "train": "longcat.stages.train",
        "train.publish": "longcat.stages.train.joins.publish",
        "train.sweep": "longcat.stages.train.sweep",
        "train.coord-check": "longcat.stages.train.coord_check",
        "grow": "longcat.stages.grow",
        "quantize": "longcat.stages.quantize",
        "extend": "longcat.stages.extend",
        "evaluate": "longcat.stages.evaluate",
        "import": "longcat.stages.convert",
    }
)
