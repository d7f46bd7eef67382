"""The command line of another engine, vLLM or SGLang, for a checkpoint and settings of this server.

Names and meanings of the engines' arguments are those of vLLM 0.32 and SGLang 0.5.23. What has no counterpart there is
refused, never left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from longcat.pipeline.errors import UsageError

Engine = Literal["vllm", "sglang"]
NAMES: dict[Engine, str] = {"vllm": "vLLM", "sglang": "SGLang"}
# Settings with a number: their argument in each engine.
NUMBERS: dict[str, dict[Engine, str]] = {
    "serve.max_queue": {"vllm": "--max-num-queued-reqs", "sglang": "--max-queued-requests"},
    "serve.drain.seconds": {"vllm": "--shutdown-timeout"},
    "engine.max_sequences": {"vllm": "--max-num-seqs", "sglang": "--max-running-requests"},
    "engine.step_tokens": {"vllm": "--max-num-batched-tokens", "sglang": "--chunked-prefill-size"},
    "engine.page_size": {"vllm": "--block-size", "sglang": "--page-size"},
    "engine.cache_tokens": {"sglang": "--max-total-tokens"},
}


@dataclass(frozen=True)
class HandOver:
    """What to serve, in the terms of `longcat serve`.

    `model` is a folder in the published layout. `settings` holds the settings that the user gave, by their dotted
    names. `arguments` are passed on as they are.
    """

    engine: Engine
    model: Path
    model_name: str
    host: str = "127.0.0.1"
    port: int = 8000
    uds: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    dtype: str = "auto"
    api_keys: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    arguments: Sequence[str] = ()


@dataclass
class Launch:
    """A command: words, changes of the environment, and lines of a configuration file that only its owner can read."""

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    private: dict[str, str] = field(default_factory=dict)


def launch_of(asked: HandOver, command: Sequence[str]) -> Launch:
    """Command that serves with another engine; `command` starts it, e.g. `["vllm", "serve"]`.

    Raises:
        UsageError: something has no counterpart in the engine; names it.
    """
    if asked.port == 0:
        raise UsageError(f"{NAMES[asked.engine]} picks no free port", hint="give a --port")
    launch = Launch([*command])
    _ENGINES[asked.engine](asked, launch)
    if asked.dtype != "auto":
        launch.words += ["--dtype", asked.dtype]
    if asked.tls_cert is not None and asked.tls_key is not None:
        launch.words += ["--ssl-certfile", str(asked.tls_cert), "--ssl-keyfile", str(asked.tls_key)]
    elif asked.tls_cert is not None or asked.tls_key is not None:
        raise UsageError("--tls-cert and --tls-key belong together", hint="give both or neither")
    for name, value in asked.settings.items():
        _add_setting(asked, launch, name, value)
    launch.words += asked.arguments
    return launch


def _vllm(asked: HandOver, launch: Launch) -> None:
    launch.words += [str(asked.model), "--served-model-name", asked.model_name]
    if asked.uds is None:
        launch.words += ["--host", asked.host, "--port", str(asked.port)]
    else:
        launch.words += ["--uds", str(asked.uds)]
    # Requests without sampling fields get the same ones as here, not those of generation_config.json.
    launch.words += ["--generation-config", "vllm", "--enable-auto-tool-choice", "--tool-call-parser", "longcat"]
    # An argument would be visible to every user of the machine.
    launch.environment |= {"VLLM_API_KEY": key} if (key := _one_key(asked)) else {}


def _sglang(asked: HandOver, launch: Launch) -> None:
    if asked.uds is not None:
        raise UsageError("SGLang has no counterpart of --uds", hint="give --host and --port")
    launch.words += ["--model-path", str(asked.model), "--served-model-name", asked.model_name]
    launch.words += ["--host", asked.host, "--port", str(asked.port), "--sampling-defaults", "openai"]
    launch.private |= {"api-key": key} if (key := _one_key(asked)) else {}


_ENGINES: dict[Engine, Callable[[HandOver, Launch], None]] = {"vllm": _vllm, "sglang": _sglang}


def _one_key(asked: HandOver) -> str | None:
    if len(asked.api_keys) > 1:
        raise UsageError(f"{NAMES[asked.engine]} is started with one key, {len(asked.api_keys)} were given")
    return asked.api_keys[0] if asked.api_keys else None


def _add_setting(asked: HandOver, launch: Launch, name: str, value: Any) -> None:
    if name in NUMBERS and asked.engine in NUMBERS[name]:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise UsageError(f"{name}: expected a number of at least 0 (found {value!r})")
        launch.words += [NUMBERS[name][asked.engine], str(round(value))]
    elif name == "engine.drafts":
        launch.words += _drafts(asked, value)
    elif name == "engine.draft_tokens" and asked.settings.get("engine.drafts") == "mtp":
        return
    elif (words := _SWITCHES.get((name, asked.engine))) is not None and isinstance(value, bool):
        launch.words += words[value]
        if (name, asked.engine) == ("engine.deterministic", "vllm") and value:
            launch.environment["VLLM_BATCH_INVARIANT"] = "1"
    else:
        hint = f"leave it out, or pass an argument of {NAMES[asked.engine]} after --"
        raise UsageError(f"{name}: {value!r} has no counterpart in {NAMES[asked.engine]}", hint=hint)


# Arguments of a switch: where it is off, and where it is on.
_SWITCHES: dict[tuple[str, Engine], tuple[list[str], list[str]]] = {
    ("engine.prefix_cache", "vllm"): (["--no-enable-prefix-caching"], ["--enable-prefix-caching"]),
    ("engine.prefix_cache", "sglang"): (["--disable-radix-cache"], []),
    ("engine.deterministic", "vllm"): ([], []),  # an environment variable
    ("engine.deterministic", "sglang"): ([], ["--enable-deterministic-inference"]),
}


def _drafts(asked: HandOver, value: Any) -> list[str]:
    count = asked.settings.get("engine.draft_tokens", 1)
    if value == "off":
        return []
    if value != "mtp" or isinstance(count, bool) or not isinstance(count, int) or count < 1:
        hint = "give off or mtp, and a draft_tokens of at least 1"
        raise UsageError(f"engine.drafts: {value!r} has no counterpart in {NAMES[asked.engine]}", hint=hint)
    if asked.engine == "vllm":
        method = {"method": "longcat_flash_mtp", "model": str(asked.model), "num_speculative_tokens": count}
        return ["--speculative-config", json.dumps(method)]
    words = ["--speculative-algorithm", "NEXTN", "--speculative-draft-model-path", str(asked.model)]
    words += ["--speculative-num-steps", str(count), "--speculative-eagle-topk", "1"]
    return [*words, "--speculative-num-draft-tokens", str(count + 1)]


def differences(engine: Engine, *, zero_experts: int, routed_scaling_factor: float) -> list[str]:
    """What differs from `longcat serve` when the engine serves a model, one sentence each."""
    name = NAMES[engine]
    found = [
        f"{name} computes with its own kernels: log-probabilities differ in their last digits, and a seed gives "
        "another text.",
        f"{name} has no chat page, and not the fields return_expert_counts and expert_counts.",
        f"{name} does not check the Host header: without a key, a web page could reach it by DNS rebinding.",
        f"{name} leaves <longcat_think> in the content instead of reasoning_content.",
    ]
    if engine == "sglang":
        found.append("SGLang has no parser for LongCat's tool calls: they stay in the content.")
        if zero_experts and routed_scaling_factor != 1:
            found.insert(
                0,
                f"SGLang (seen in 0.5.23) does not multiply the part of the {zero_experts} zero-computation experts by "
                f"routed_scaling_factor = {routed_scaling_factor:g}: it computes ANOTHER FUNCTION than this model was "
                "trained with, and its answers are worse.",
            )
    return found
