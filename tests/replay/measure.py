"""Print the digests of one tree as JSON: `PYTHONPATH=TREE/src python measure.py FOLDER [--model-only]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from chain_digests import chain_digests
from model_digests import model_digests


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    found = dict(model_digests())
    if not options.model_only:
        found |= chain_digests(options.folder)
    json.dump(found, sys.stdout, indent=0)


if __name__ == "__main__":
    main()
