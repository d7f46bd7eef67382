"""The Ray engine on an existing cluster of two nodes, one of which is lost during the run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from longcat.pipeline.engine.ray import RayEngine
from longcat.pipeline.errors import LongcatError

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed (pip install 'longcat-cli[ray]')")


@pytest.fixture
def cluster() -> Iterator[Any]:
    running = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield running
    finally:
        running.shutdown()


def slow_square(value: int) -> int:
    time.sleep(0.3)
    return value * value


def test_a_lost_node_loses_no_results(cluster: Any) -> None:
    second = cluster.add_node(num_cpus=1)
    engine = RayEngine(address=cluster.address)
    results: dict[int, int] = {}
    try:
        assert engine.workers == 2
        for number, result in engine.run(slow_square, range(10)):
            assert number not in results
            results[number] = result
            if len(results) == 3:
                cluster.remove_node(second, allow_graceful=False)
    finally:
        engine.close()
    assert results == {number: number * number for number in range(10)}


@pytest.mark.parametrize("address", ["127.0.0.1:1", None])
def test_a_missing_cluster_is_one_clear_error(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    engine = RayEngine(address=address)
    with pytest.raises(LongcatError, match="no Ray cluster") as caught:
        list(engine.run(slow_square, [1]))
    assert caught.value.where == "127.0.0.1:1"
