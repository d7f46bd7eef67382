"""Launches a training stage on several processes and nodes.

As in a single process, the command holds the artifact's lock and publishes the result. It writes
work/launch.json, starts torchrun on this node and waits; the ranks run `stages.train.launch.worker`. On every other
node the same command, with another node_rank, finds that file in the shared store and starts its own ranks.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from longcat.pipeline.engine.local import available_cores
from longcat.pipeline.errors import ConfigError, InterruptedRunError, LongcatError
from longcat.pipeline.processes import descendants, end_with_parent, kill_tree, safe_environment, safe_python
from longcat.pipeline.stage import Context, Result, registry
from longcat.stages.train.launch.config import LaunchOptions
from longcat.stages.train.launch.files import Launch, LaunchFolder, launch_path, rebuilt_error
from longcat.stages.train.launch.rank_events import Listener

WORKER = "longcat.stages.train.launch.worker"
KILLED = "it was killed by"
POLL_SECONDS = 0.1
# Seconds that ranks of this node may continue after another rank has failed, and torchrun's kill timeout.
GRACE_SECONDS = 5
FAILURE = re.compile(r"rank\s*: (\d+) \(local_rank: \d+\)\s*exitcode\s*: (-?\d+) \(pid: \d+\)")


def is_launched(options: LaunchOptions) -> bool:
    """Whether a run uses separate processes."""
    return options.world_size > 1


def follows(options: LaunchOptions) -> bool:
    """Whether this command helps one on another node that makes and publishes the artifact."""
    return options.node_rank > 0


def run_or_launch(context: Context[Any], stage: str) -> Result:
    """Run a stage's body here, or in the configured number of processes; raises as `launch`."""
    if is_launched(context.config):
        return launch(context, stage)
    return registry.get(stage).load_body()(context)


def launch(context: Context[Any], stage: str) -> Result:
    """Run a stage's body in the configured number of processes.

    Raises:
        InterruptedRunError: a stop was requested; progress is saved.
        LongcatError: a rank failed or was killed; names it. The same command resumes from the last checkpoint.
    """
    if follows(context.config):
        return _Node(context, _found(context)).run()
    LaunchFolder(context.work).clear()
    plan = Launch.of(context, stage, attempt=secrets.token_hex(8))
    plan.write()
    try:
        result = _Node(context, plan).run()
    finally:
        launch_path(context.work).unlink(missing_ok=True)
    return result


def _found(context: Context[Any]) -> Launch:
    """Wait for the launch file of node 0.

    Raises:
        LongcatError: it did not appear in time.
        ConfigError: node 0 was given other options.
    """
    path, options = launch_path(context.work), context.config
    deadline = time.monotonic() + options.collective_timeout
    while time.monotonic() < deadline:
        context.check_stop()
        with suppress(FileNotFoundError):
            found = Launch.read(path)
            mine = context.config.model_dump(mode="json") | {"node_rank": 0}
            for name, value in found.config.items():
                if mine.get(name) != value:
                    raise ConfigError(
                        f"{name} = {mine.get(name)} here, {value} on node 0", hint="use the same options on every node"
                    )
            return found
        time.sleep(POLL_SECONDS)
    raise LongcatError(
        f"node 0 did not start within {options.collective_timeout:g} s",
        where=str(path),
        hint="run the same command there with --node-rank 0, on a store shared by all nodes",
    )


@dataclass
class _Node:
    """Ranks of this node, and known state of the others."""

    context: Context[Any]
    plan: Launch

    def __post_init__(self) -> None:
        self.options: LaunchOptions = self.context.config
        self.folder = LaunchFolder(self.context.work)
        self.log = self.folder.agent_log(self.options.node_rank)
        self.told: set[int] = set()

    def run(self) -> Result:
        """Start the ranks, wait for them, and kill remaining ones."""
        with self.context.deferred_stop(), self.log.open("wb") as output:
            agent = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(self.options),
                start_new_session=True,  # Ctrl-C on the terminal is handled by this process, which forwards it
                preexec_fn=end_with_parent,  # noqa: PLW1509  no other thread runs yet
            )
            try:
                self._watch(agent)
            finally:
                kill_tree(agent.pid)
                agent.wait()
        return self._result(agent.returncode)

    def _command(self) -> list[str]:
        options = self.options
        command = [*safe_python(), "-m", "torch.distributed.run", "--max-restarts=0"]
        command += [f"--nproc-per-node={options.nproc_per_node}", f"--nnodes={options.nnodes}"]
        command += [f"--shutdown-timeout={GRACE_SECONDS}"]
        if options.nnodes > 1:
            host, port = options.rendezvous_address()
            command += [f"--node-rank={options.node_rank}", f"--master-addr={host}", f"--master-port={port}"]
        else:
            command += ["--standalone", "--local-addr=127.0.0.1"]
        return [*command, "-m", WORKER, str(launch_path(self.context.work))]

    def _watch(self, agent: subprocess.Popen[bytes]) -> None:
        """Until torchrun exits: show progress, forward a stop, and end local ranks after a failure elsewhere."""
        listener = None
        if not follows(self.options):
            listener = Listener(self.folder.events, self.context.progress, self.context.logger)
        failed_at = None
        try:
            while agent.poll() is None:
                if listener is not None:
                    listener.listen()
                if self.context.stop_requested():
                    self._pass_stop_on(agent.pid)
                if failed_at is None and self.folder.failures(self.plan.attempt):
                    failed_at = time.monotonic()
                if failed_at is not None and time.monotonic() - failed_at > 2 * GRACE_SECONDS:
                    return
                time.sleep(POLL_SECONDS)
        finally:
            if listener is not None:
                listener.close()

    def _pass_stop_on(self, agent: int) -> None:
        """Send SIGTERM to every local rank once; torchrun would kill ranks that take long to save."""
        for process in descendants(agent, WORKER):
            if process.pid not in self.told:
                self.told.add(process.pid)
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)

    def _result(self, code: int) -> Result:
        """Result of rank 0, on node 0; raises the first error."""
        if code == 0 and follows(self.options):
            return Result()  # node 0 has it, and may already have published the artifact and deleted the work folder
        self._record_killed()
        failures = self.folder.failures(self.plan.attempt)
        stopped = self.context.stop_requested()
        # When one rank fails, torchrun stops the others, which then exit as if a stop was requested.
        causes = [failure for failure in failures if not _was_stopped(failure)]
        if stopped or (failures and not causes):
            raise InterruptedRunError("interrupted")
        if causes:
            # Prefer a rank with its own error; killed ranks come before ranks that lost a peer.
            known = [failure for failure in causes if failure["kind"] not in ("", "killed")]
            killed = [failure for failure in causes if failure["kind"] == "killed" and KILLED in failure["what"]]
            killed.sort(key=lambda failure: "SIGABRT" in failure["what"])  # gloo aborts when a peer is lost
            raise rebuilt_error((known or killed or causes)[0], self.options.world_size, self.log)
        result = self.folder.read_result()
        if code != 0 or result is None:
            raise LongcatError(f"the processes ended with exit code {code}", hint=f"see {self.log}")
        return result

    def _record_killed(self) -> None:
        """Record local ranks that were killed, which could not do so themselves."""
        known = {failure["rank"] for failure in self.folder.failures(self.plan.attempt)}
        if not self.log.exists():
            return
        for rank, code in FAILURE.findall(self.log.read_text(errors="replace")):
            if int(rank) in known or self.context.stop_requested():
                continue
            if int(code) < 0:
                name = signal.Signals(-int(code)).name
                what = f"{KILLED} {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
            else:
                what = f"it ended with exit code {code}"
            self.folder.write_ending(int(rank), self.plan.attempt, {"kind": "killed", "what": what})


def _was_stopped(failure: Mapping[str, Any]) -> bool:
    return failure["kind"] == "InterruptedRunError" or "SIGTERM" in failure.get("what", "")


def _environment(options: LaunchOptions) -> dict[str, str]:
    """Environment of the ranks: the same code, and a share of the cores."""
    threads = max(1, available_cores() // options.nproc_per_node)
    return {"OMP_NUM_THREADS": str(threads)} | os.environ | safe_environment()
