"""Completion: suggestions for the shell, and no errors, delays or written files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.app import run
from longcat.pipeline.artifact import artifact_id
from longcat.pipeline.store import Store, utc_now
from longcat.stages.data.rules.config import FilterConfig, rules_on

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Store with names of several kinds, a damaged one, and folders of artifacts."""
    made = Store(tmp_path / "store")
    for name, kind, identifier in (
        ("base", "checkpoint", "aa01" * 4),
        ("base", "checkpoint", "aa02" * 4),
        ("grown", "checkpoint", "ab03" * 4),
        ("filtered", "documents", "ad04" * 4),
        ("tokens", "tokens", "ae05" * 4),
    ):
        made.refs.publish(name, identifier, kind, utc_now())
        (made.root / kind / identifier).mkdir(parents=True)
    (made.refs.folder / "broken.json").write_text("{")
    return made.root


def filtered_artifact(root: Path, make_manifest: Any, config: dict[str, Any]) -> Path:
    """A folder with only the manifest of a filtered artifact."""
    identifier = artifact_id("data.filter", 1, config, {}, {})
    manifest = make_manifest(identifier, "documents", "data.filter", config=config)
    folder = root / "documents" / manifest.id
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder


def suggested(capfd: Capture, monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    """Suggestions for bash at the end of `line`; the last word is incomplete."""
    words = line.split(" ")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    monkeypatch.setenv("_LONGCAT_COMPLETE", "complete_bash")
    assert run([]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return out.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("longcat --store {0} generate --checkpoint ", ["base", "grown"]),
        ("longcat generate --store {0} --checkpoint ", ["base", "grown"]),
        ("longcat generate --store {0} --checkpoint g", ["grown", "grown@1"]),
        ("longcat generate --store {0} --checkpoint base@", ["base@1", "base@2"]),
        ("longcat generate --store {0} --checkpoint aa", ["aa01" * 4, "aa02" * 4]),
        ("longcat generate --store {0} --checkpoint=b", ["base", "base@1", "base@2"]),
        ("longcat --store {0} train --tokens ", ["tokens", "tokens@1"]),
        ("longcat --store {0} train --checkpoint g", ["grown", "grown@1"]),
        ("longcat --store {0} eval --tokens tokens --checkpoint ", ["base", "grown"]),
        ("longcat --store {0} data filter --documents ", ["filtered", "filtered@1"]),
        ("longcat --store {0} data inspect ", ["filtered", "tokens"]),
        ("longcat --store {0} artifacts show ", ["base", "filtered", "grown", "tokens"]),
        ("longcat --store {0} artifacts diff base ", ["base", "filtered", "grown", "tokens"]),
        ("longcat --store {0} report b", ["base", "base@1", "base@2"]),
        ("longcat --store {0} export g", ["grown", "grown@1"]),
        ("longcat --store {0} train verify ", ["base", "grown"]),
        ("longcat --store {0} model describe g", ["grown", "grown@1"]),
        ("longcat --store {0} model describe tiny-l", ["tiny-long"]),
        ("longcat train --preset longcat-1", ["longcat-1b"]),
        ("longcat train sweep --preset sm", ["smoke"]),
        ("longcat train --dtype ", ["auto", "float32", "bfloat16"]),
        ("longcat generate --dtype b", ["bfloat16"]),
        ("longcat train --activation-checkpointing ", ["none", "selective", "block"]),
        ("longcat data extract --format m", ["markdown"]),
        ("longcat data extract --formats n", ["notebook"]),
        ("longcat export base --layout ", ["published", "transformers5"]),
        ("longcat artifacts list --kind c", ["crawl", "checkpoint"]),
        ("longcat --engine ", ["local", "ray"]),
        ("longcat run d", ["demo", "drafts"]),
        ("longcat run demo --until g", ["grown", "grown-on"]),
        ("longcat run demo --set gr", ["grown.", "grown-on."]),
        ("longcat run demo --set base.schedule.k", ["base.schedule.kind="]),
        ("longcat train --set schedule.w", ["schedule.warmup_steps="]),
        ("longcat train --set model.num_l", ["model.num_layers="]),
        ("longcat train --set objective.document_mask=", [f"objective.document_mask={v}" for v in ("true", "false")]),
        ("longcat data inspect filtered --rule language.", ["language.min_probability"]),
        ("longcat data inspect --rule gopher_quality.min_w", ["gopher_quality.min_words"]),
        ("longcat data inspect {0}/no --rule c4.max", ["c4.max_lorem_ipsum", "c4.max_curly_brackets"]),
        ("longcat data inspect filtered --rule sites.", []),
        ("longcat train s", ["sweep"]),
        ("longcat train --store {0} v", ["verify"]),
        ("longcat data coll", ["collect"]),
    ],
)
def test_values_are_suggested(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, store: Path, line: str, expected: list[str]
) -> None:
    assert suggested(capfd, monkeypatch, line.format(store)) == expected


def test_train_has_subcommands_and_options(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    found = suggested(capfd, monkeypatch, "longcat train ")
    assert found[:4] == ["sweep", "coord-check", "publish", "verify"]
    assert {"--tokens", "--preset", "--set", "--dry-run", "--store", "--help"} <= set(found)
    assert suggested(capfd, monkeypatch, "longcat train --dr") == ["--dry-run"]
    assert suggested(capfd, monkeypatch, "longcat artifacts list --st") == ["--store"]


def test_rules_of_a_filtered_artifact_are_those_that_were_enabled(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_manifest: Any
) -> None:
    config = {"language": {"enabled": False}, "gopher_quality": {"max_hash_ratio": None}}
    folder = filtered_artifact(tmp_path / "store", make_manifest, config)
    found = suggested(capfd, monkeypatch, f"longcat data inspect {folder} --rule ")
    assert found == rules_on(FilterConfig.model_validate(config))
    assert not {"language.min_probability", "gopher_quality.max_hash_ratio"} & set(found)
    assert "gopher_quality.max_ellipsis_ratio" in found
    line = f"longcat --store {tmp_path / 'store'} data inspect {folder.name} --rule gopher_quality.max_h"
    assert suggested(capfd, monkeypatch, line) == []


def test_recipes_are_files_too(capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nsteps: {a: {stage: data.extract}}\n")
    monkeypatch.chdir(tmp_path)
    assert suggested(capfd, monkeypatch, "longcat run m") == ["mine.yaml"]
    assert suggested(capfd, monkeypatch, f"longcat run {tmp_path}/") == [f"{tmp_path}/mine.yaml"]
    assert suggested(capfd, monkeypatch, "longcat run mine.yaml --set a.format=h") == ["a.format=html"]


@pytest.mark.parametrize(
    "line",
    [
        "longcat --store {0} generate --checkpoint ",
        "longcat --store {0} artifacts show aa",
        "longcat run no-such-recipe --set ",
        "longcat run {0} --set ",
        "longcat --workers many train --preset zzz",
        "longcat no-such-command ",
        "longcat train --set =",
        "longcat '",
    ],
)
@pytest.mark.parametrize("kind", ["absent", "file"])
def test_errors_are_silent(tmp_path: Path, line: str, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("not a store")
    line = line.format(place)
    environment = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_LONGCAT_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-m", "longcat.cli"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    assert place.exists() == (kind == "file")


@pytest.mark.parametrize(("shell", "expected"), [("zsh", '"base":"checkpoint aa02'), ("fish", "base\tcheckpoint aa02")])
def test_zsh_and_fish_get_the_same_suggestions(store: Path, shell: str, expected: str) -> None:
    before = sorted(path.as_posix() for path in store.rglob("*"))
    environment = {
        "_LONGCAT_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": f"longcat generate --store {store} --checkpoint ",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "longcat.cli"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert expected in done.stdout
    assert time.monotonic() - started < 5, "a second on an idle machine"
    assert sorted(path.as_posix() for path in store.rglob("*")) == before


def test_the_script_for_the_shell_is_shown() -> None:
    for shell in ("bash", "zsh", "fish"):
        done = subprocess.run(
            [sys.executable, "-c", "from longcat.cli.app import main; main()"],
            env={**os.environ, "_LONGCAT_COMPLETE": f"source_{shell}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert f"_LONGCAT_COMPLETE=complete_{shell}" in done.stdout


def test_completion_does_not_import_torch() -> None:
    code = (
        "import os, sys\nfrom longcat.cli.app import run\n"
        "for line in ('longcat train --set m', 'longcat run demo --set base.', 'longcat model describe ',\n"
        "             'longcat data inspect --rule c'):\n"
        "    os.environ.update(COMP_WORDS=line, COMP_CWORD=str(line.count(' ')), _LONGCAT_COMPLETE='complete_bash')\n"
        "    run([])\n"
        "sys.exit(1 if {'torch', 'numpy'} & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
