"""The Ray engine: the same functions of one shard, as tasks of a Ray cluster whose nodes share a file system."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from longcat.pipeline.engine.local import available_cores
from longcat.pipeline.errors import LongcatError, UsageError
from longcat.pipeline.processes import import_root

MAX_RETRIES = 3
POLL_SECONDS = 0.2
CONNECT_SECONDS = 10.0
LOCAL_CLUSTER = "local"
OBJECT_STORE_BYTES = 100 << 20  # tasks and results are small; large data goes through files


class RayEngine:
    """Tasks on a Ray cluster; a task whose worker dies is run again, up to three times.

    Workers read and write the paths that this process names, so the store, the inputs and the working directory must be
    on a file system shared by all nodes, and the same version of this package must be installed on all of them.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        """`address`: of a running cluster (`auto` or `HOST:PORT`), else $RAY_ADDRESS; without either a cluster on this
        machine is started for this process. `workers`: maximum concurrent tasks, by default one per CPU of the cluster.

        Raises:
            UsageError: Ray is not installed.
        """
        try:
            import ray  # noqa: F401
        except ImportError:
            raise UsageError("the engine `ray` needs Ray", hint='pip install "longcat-cli[ray]"') from None
        self._asked = workers
        self._address = address or os.environ.get("RAY_ADDRESS") or LOCAL_CLUSTER
        self._started = False

    @property
    def workers(self) -> int:
        if self._asked is not None:
            return self._asked
        import ray

        self._connect()
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def run(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """See `Engine.run`.

        Raises:
            LongcatError: the cluster cannot be reached or was lost, or a task's worker died four times.
        """
        if not tasks:
            return
        import ray
        from ray.exceptions import RayError, RayTaskError

        self._connect()
        remote = ray.remote(num_cpus=1, max_retries=MAX_RETRIES, retry_exceptions=False)(_call)
        folder, most = str(Path.cwd()), self._most_in_flight()
        pending: dict[Any, int] = {}
        queue = iter(enumerate(tasks))
        try:
            while True:
                # Few tasks are submitted ahead, so that memory does not grow with their number.
                while len(pending) < most and (item := next(queue, None)) is not None:
                    pending[remote.remote(function, item[1], folder)] = item[0]
                if not pending:
                    return
                done, _ = ray.wait(list(pending), num_returns=1, timeout=POLL_SECONDS)
                for reference in done:
                    yield pending.pop(reference), ray.get(reference)
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise LongcatError(
                f"Ray abandoned a task: {_first_line(error)}",
                hint="run again to resume from the finished shards; a worker dies when killed or out of memory",
            ) from None
        finally:
            self._give_up(list(pending))

    def close(self) -> None:
        """Disconnect from the cluster, and stop it if it was started here."""
        if self._started:
            import ray

            ray.shutdown()
            self._started = False

    def _most_in_flight(self) -> int:
        # An existing cluster may have more CPUs than requested; one started here has exactly that many.
        bounded = self._asked is not None and self._address != LOCAL_CLUSTER
        return self.workers if bounded else 2 * self.workers

    def _connect(self) -> None:
        import ray

        if self._started:
            return
        from ray.exceptions import RayError

        self._check_address()
        # No usage statistics, and a task that never fits into memory fails after some retries.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_task_oom_retries", str(MAX_RETRIES))
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            # Ray adds its start folder to the module path of every worker; start it in the folder of our code.
            with warnings.catch_warnings(), contextlib.chdir(import_root()):
                warnings.simplefilter("ignore", FutureWarning)
                ray.init(**self._options())
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, RayError) as error:
            raise self._no_cluster(error) from None
        finally:
            # Ray installs its own signal handlers; ours must stay in place.
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self._started = True

    def _check_address(self) -> None:
        """Check that the address answers; Ray itself would wait for minutes and ignore signals."""
        host, separator, port = self._address.rpartition(":")
        if separator and port.isdecimal():
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
            except (OSError, OverflowError) as error:
                raise self._no_cluster(error) from None

    def _no_cluster(self, error: BaseException) -> LongcatError:
        return LongcatError(
            f"no Ray cluster: {_first_line(error)}",
            where=self._address,
            hint="`ray status` shows whether one runs; without --ray-address one is started on this machine",
        )

    def _options(self) -> dict[str, Any]:
        variables = {
            "OMP_NUM_THREADS": "1",
            "RAYON_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONSAFEPATH": "1",
        }
        options: dict[str, Any] = {
            "address": self._address,
            "log_to_driver": False,
            "logging_level": "error",
            "runtime_env": {"env_vars": variables},
        }
        if self._address == LOCAL_CLUSTER:
            options |= {
                "num_cpus": self._asked or available_cores(),
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        return options

    def _give_up(self, references: list[Any]) -> None:
        import ray

        if references and ray.is_initialized():
            for reference in references:
                ray.cancel(reference, force=True)


def _call(function: Callable[[Any], Any], task: Any, folder: str) -> Any:
    """Run a task in the worker, in the caller's working directory."""
    os.chdir(folder)
    return function(task)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
