"""The stage data.repositories: files of a repository in dependency order."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.errors import ConfigError, InputError, UsageError
from longcat.stages.data.repositories.assemble import repository_documents
from longcat.stages.data.repositories.imports import Files, imported
from longcat.stages.data.repositories.order import dependency_order

PROJECT = {
    "README.md": "# Ships",
    "app/__init__.py": "",
    "app/main.py": "import json\nfrom app import ships\nfrom .harbour import Harbour\nimport os.path\n",
    "app/ships.py": "from .sea import Sea\nfrom app.harbour import Harbour\n",
    "app/harbour.py": "import app.sea\n",
    "app/sea.py": "import numpy\n",
}


def found(path: str, texts: dict[str, str]) -> list[str]:
    return sorted(set(imported(path, Files(texts))))


def test_imports_come_first_and_circles_are_broken_the_same_way() -> None:
    imports = {"a": ["b"], "b": ["c"], "c": ["d", "b"], "d": [], "e": ["a", "d"]}
    # b and c are a circle: both lack one import of it, so b is first; c would follow b in any case.
    assert dependency_order(imports) == (["d", "b", "c", "a", "e"], 1)
    for seed in range(5):
        keys = list(imports)
        random.Random(seed).shuffle(keys)
        assert dependency_order({key: imports[key][::-1] for key in keys}) == (["d", "b", "c", "a", "e"], 1)


def test_in_a_circle_the_file_with_the_fewest_missing_imports_is_first() -> None:
    # All three are one circle: a imports two of it, b and c one each.
    assert dependency_order({"a": ["b", "c"], "b": ["a"], "c": ["b"]}) == (["b", "c", "a"], 1)


def test_a_long_chain_needs_no_recursion() -> None:
    names = [f"{number:05d}" for number in range(5000)]
    chain = {name: [after] for name, after in zip(names, [*names[1:], "none"], strict=True)}
    assert dependency_order(chain).paths == names[::-1]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("app/main.py", ["app/__init__.py", "app/harbour.py", "app/ships.py"]),
        ("app/ships.py", ["app/harbour.py", "app/sea.py"]),
        ("app/sea.py", []),
    ],
)
def test_python(path: str, expected: list[str]) -> None:
    assert [at for at in found(path, PROJECT) if at in expected] == expected
    assert not set(found(path, PROJECT)) - {*expected, "app/__init__.py"}


def test_python_of_another_version_and_sources_below_a_folder() -> None:
    texts = {
        "src/pkg/old.py": "from pkg.new import f\nprint 'no syntax of today'\n",
        "src/pkg/new.py": "",
        "tests/json.py": "",
        "tools/run.py": "import json, helper\n",
        "tools/helper.py": "from .. import nothing\n",
    }
    assert found("src/pkg/old.py", texts) == ["src/pkg/new.py"]
    assert found("tools/run.py", texts) == ["tools/helper.py"]


def test_other_languages() -> None:
    texts = {
        "src/a.c": '#include <stdio.h>\n#include "a.h"\n# include "util/b.h"\n',
        "src/a.h": "#include <lib/c.h>\n",
        "include/util/b.h": "",
        "include/lib/c.h": "",
        "web/main.ts": "import { x } from './x';\nimport './z.js';\n"
        "const y = require(\"../shared\");\nimport r from 'react';\n",
        "web/x.tsx": "",
        "web/z.ts": "",
        "shared/index.js": "",
        "go.mod": "module example.org/fleet\n",
        "cmd/main.go": 'package main\nimport (\n  "fmt"\n  "example.org/fleet/ship"\n)\n',
        "ship/hull.go": "package ship\n",
        "ship/hull_test.go": "package ship\n",
        "src/main.rs": "mod net;\nuse crate::model::Ship;\nuse std::io;\n",
        "src/net.rs": "mod wire;\n",
        "src/net/wire.rs": "",
        "src/model.rs": "",
        "j/org/sea/Port.java": "import org.sea.boats.*;\nimport static org.sea.Tide.HIGH;\nimport java.util.List;\n",
        "j/org/sea/boats/Tug.java": "",
        "j/org/sea/Tide.java": "",
    }
    assert found("src/a.c", texts) == ["include/util/b.h", "src/a.h"]
    assert found("src/a.h", texts) == ["include/lib/c.h"]
    assert found("web/main.ts", texts) == ["shared/index.js", "web/x.tsx", "web/z.ts"]
    assert found("cmd/main.go", texts) == ["ship/hull.go"]
    assert found("src/main.rs", texts) == ["src/model.rs", "src/net.rs"]
    assert found("src/net.rs", texts) == ["src/net/wire.rs"]
    assert found("j/org/sea/Port.java", texts) == ["j/org/sea/Tide.java", "j/org/sea/boats/Tug.java"]


def test_a_repository_becomes_one_document_or_several_of_whole_files() -> None:
    texts = {"b.py": "B = 1\n", "a.py": "import b\n", "README": "Read me", "z.c": "int z;"}
    (whole,) = repository_documents("fleet", texts, 10_000)
    assert whole.text == "# README\nRead me\n\n# b.py\nB = 1\n\n# a.py\nimport b\n\n// z.c\nint z;\n"
    assert whole.metadata["paths"] == ["README", "b.py", "a.py", "z.c"]
    parts = list(repository_documents("fleet", texts, 34))
    assert [part.metadata["paths"] for part in parts] == [["README", "b.py"], ["a.py", "z.c"]]
    assert [part.id for part in parts] == ["fleet#1", "fleet#2"]
    assert [part.metadata["paths"] for part in repository_documents("fleet", texts, 1)] == [[path] for path in
        ("README", "b.py", "a.py", "z.c")]  # fmt: skip


def folder_of(root: Path, texts: dict[str, str]) -> Path:
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def archive_of(path: Path, texts: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(f"ships-1.0/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def documents_of(artifact: Artifact) -> list[Document]:
    return [document for shard in document_shards(artifact) for document in read_documents(shard)]


def test_folders_archives_and_documents_give_the_same(
    run_stage: Any, make_documents: Callable[..., Artifact], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "ships", PROJECT | {"picture.png": "x", "node_modules/x.js": "no", ".git/HEAD": "no"})
    archive = archive_of(tmp_path / "ships.tar.gz", PROJECT)
    shuffled = [
        Document(f"d{number}", text, "s", metadata={"repository": "ships", "path": path})
        for number, (path, text) in enumerate(sorted(PROJECT.items(), reverse=True))
    ]
    lost = Document("lost", "text", "s")
    made = [
        run_stage("data.repositories", {"input": [str(folder)]}),
        run_stage("data.repositories", {"input": [str(archive)]}),
        run_stage("data.repositories", {}, {"documents": make_documents(shuffled[:3], [*shuffled[3:], lost])}),
    ]
    texts = [[document.text for document in documents_of(artifact)] for artifact in made]
    assert texts[0] == texts[1] == texts[2]
    (document,) = documents_of(made[0])
    assert document.id == "ships"
    order = ["README.md", "app/sea.py", "app/harbour.py", "app/ships.py", "app/main.py"]
    assert document.metadata["paths"] == order
    assert made[0].manifest.counts == {
        "documents_in": 7,
        "documents_out": 1,
        "dropped": {"empty": 1, "joined": 4, "other_type": 1},
    }
    assert made[2].manifest.counts["dropped"] == {"empty": 1, "joined": 4, "no_repository": 1}
    assert made[0].manifest.metrics == {"repositories": 1, "circular_imports": 0}


def test_installed_packages_are_repositories(run_stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Installed for development: a folder of links, one of which leads back.
    folder_of(tmp_path / "code" / "app", {"sea.py": "x = 1\n", "ships.py": "from .sea import x\n"})
    folder_of(tmp_path / "links_of_ships", {"__init__.py": "import links_of_ships.app.sea\n"})
    (tmp_path / "links_of_ships" / "app").symlink_to(tmp_path / "code" / "app")
    (tmp_path / "code" / "app" / "again").symlink_to(tmp_path / "links_of_ships")
    monkeypatch.syspath_prepend(str(tmp_path))
    made = run_stage("data.repositories", {"modules": ["links_of_ships"]})
    (document,) = documents_of(made)
    assert document.id == "links_of_ships"
    paths = ["app/sea.py", "__init__.py", "app/ships.py"]
    assert document.metadata["paths"] == [f"links_of_ships/{path}" for path in paths]
    # The files are part of the artifact's identity.
    (tmp_path / "code" / "app" / "sea.py").write_text("x = 2\n")
    assert run_stage("data.repositories", {"modules": ["links_of_ships"]}).id != made.id
    # A repository that is given as a folder is read without its links.
    (document,) = documents_of(run_stage("data.repositories", {"input": [str(tmp_path / "links_of_ships")]}))
    assert document.metadata["paths"] == ["__init__.py"]


@pytest.mark.parametrize("name", ["no_such_package", "tarfile", "no_such_package.below", ""])
def test_what_is_no_installed_package_is_refused(run_stage: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"modules: no installed package '{name}'"):
        run_stage("data.repositories", {"modules": [name]})


def test_bad_inputs_are_refused(run_stage: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(UsageError, match="no input"):
        run_stage("data.repositories", {})
    with pytest.raises(InputError, match="no such folder or archive"):
        run_stage("data.repositories", {"input": [str(tmp_path / "missing")]})
    with pytest.raises(InputError, match="cannot be read as a tar archive"):
        run_stage("data.repositories", {"input": [str(tmp_path / "broken.tar")]})
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no repository among 0 files"):
        run_stage("data.repositories", {"input": [str(folder_of(tmp_path / "none", {}))]})
