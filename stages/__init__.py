"""The rooms: what the user runs. Each stage's module is imported when the stage is first asked for."""

from pipeline.stage import registry

registry.declare(
    {
        "data.collect.local": "stages.data.collect",
        "data.collect.urls": "stages.data.collect",
        "data.extract": "stages.data.extract",
        "data.filter": "stages.data.filter",
        "data.train-quality": "stages.data.quality",
        "data.dedup": "stages.data.dedup",
        "data.decontaminate": "stages.data.decontaminate",
        "data.tokenizer": "stages.data.tokenizer",
        "data.score": "stages.data.score",
        "data.pack": "stages.data.pack",
        "data.mix": "stages.data.mixture",
        "train": "stages.train",
        "train.sweep": "stages.train.sweep",
        "train.coordinates": "stages.train.coordinates",
        "grow": "stages.grow",
        "extend": "stages.extend",
        "evaluate": "stages.evaluate",
        "import": "stages.convert",
    }
)
