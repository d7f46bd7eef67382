"""The example jobs are valid, and they use existing options of the command."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from longcat.stages.train.launch.config import LaunchOptions

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def flags() -> set[str]:
    return {"--" + name.replace("_", "-") for name in LaunchOptions.model_fields if name != "collective_timeout"}


def test_the_jobset_runs_every_pod_as_a_node() -> None:
    manifest = yaml.safe_load((EXAMPLES / "train-jobset.yaml").read_text())
    assert manifest["kind"] == "JobSet"
    (job,) = manifest["spec"]["replicatedJobs"]
    pods = job["template"]["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    options = dict(part.split("=", 1) for part in container["args"][1:])
    assert flags() <= options.keys()
    assert int(options["--nnodes"]) == pods["parallelism"] == pods["completions"]
    assert int(options["--nproc-per-node"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pods["template"]["spec"]["volumes"]}


def test_the_slurm_script_parses() -> None:
    path = EXAMPLES / "train.slurm"
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    assert all(f"{flag} " in text for flag in flags())
