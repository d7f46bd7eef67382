"""The container file refers to things that exist; no container engine is needed."""

from __future__ import annotations

import json
import re
import tomllib

from longcat.cli.settings import Settings
from tests.docs.blocks import ROOT

FILE = ROOT / "docs" / "deploy" / "Containerfile"


def instructions() -> dict[str, list[str]]:
    """Arguments of every instruction, by its name."""
    lines = re.sub(r"\\\n\s*", "", FILE.read_text("utf-8")).splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest)
    return found


def test_it_installs_an_extra_of_the_distribution() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (installed,) = re.findall(r'"/source\[(\w+)\]"', " ".join(instructions()["RUN"]))
    assert installed in extras


def test_it_runs_longcat_as_another_user_and_reads_the_store_that_is_mounted() -> None:
    found = instructions()
    assert json.loads(found["ENTRYPOINT"][0]) == ["longcat"]
    assert found["USER"] == ["10001"]
    assert found["ENV"] == ["LONGCAT_STORE=/store"]
    assert found["VOLUME"] == ["/store"]
    assert Settings().store.name == "longcat-store"


def test_its_health_check_asks_a_route_of_the_server_on_its_port() -> None:
    found = instructions()
    check = json.loads(found["HEALTHCHECK"][0].partition("CMD ")[2])
    (port, path) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", check[-1])[0]
    assert port == found["EXPOSE"][0]
    assert f'"{path}"' in "".join(file.read_text("utf-8") for file in (ROOT / "stages" / "serve").glob("*.py"))
    compile(check[-1], "HEALTHCHECK", "exec")
