"""Hand-over to vLLM and SGLang: their command lines, and fake engines that run as children."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.app import run
from longcat.cli.hand_over import MARK, engine_model
from longcat.pipeline.errors import InputError, UsageError
from longcat.pipeline.progress import SilentProgress
from longcat.stages.convert import export_checkpoint
from longcat.stages.serve.engine_process import find_engine, run_engine, shown
from longcat.stages.serve.hand_over import NAMES, Engine, HandOver, Launch, differences, launch_of

MODEL = Path("/models/flash")
ENGINES = tuple(NAMES)
# Writes what it was called with, then waits for a signal.
FAKE = f"""#!{sys.executable}
import json, os, pathlib, signal, sys, time
arguments = sys.argv[1:]
told = {{"arguments": arguments, "key": os.environ.get("VLLM_API_KEY"), "group": os.getpgrp() == os.getpid()}}
if "--config" in arguments:
    file = pathlib.Path(arguments[-1])
    told["config"] = file.read_text()
    told["mode"] = [oct(path.stat().st_mode & 0o777) for path in (file, file.parent)]
def ended(number, frame):
    pathlib.Path(os.environ["TOLD"] + ".signal").write_text(str(int(number)))
    sys.exit(int(os.environ.get("CODE", "0")))
signal.signal(signal.SIGTERM, ended)
signal.signal(signal.SIGINT, ended)
pathlib.Path(os.environ["TOLD"]).write_text(json.dumps(told))
if "WAIT" in os.environ:
    time.sleep(60)
sys.exit(int(os.environ.get("CODE", "0")))
"""


def words(engine: Engine, **asked: Any) -> list[str]:
    return launch_of(HandOver(engine, MODEL, "flash", **asked), ["run"]).words


def test_the_address_and_the_name_are_passed_on() -> None:
    assert words("vllm", host="0.0.0.0", port=9000)[:8] == [
        *("run", "/models/flash", "--served-model-name", "flash"),
        *("--host", "0.0.0.0", "--port", "9000"),
    ]
    assert words("sglang")[:9] == [
        *("run", "--model-path", "/models/flash", "--served-model-name", "flash"),
        *("--host", "127.0.0.1", "--port", "8000"),
    ]
    assert words("vllm", uds=Path("/run/x.sock"))[4:6] == ["--uds", "/run/x.sock"]
    tls = words("sglang", tls_cert=Path("c.pem"), tls_key=Path("k.pem"))
    assert tls[-4:] == ["--ssl-certfile", "c.pem", "--ssl-keyfile", "k.pem"]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_engine_runs_no_code_of_the_checkpoint_and_adds_no_sampling_defaults(engine: Engine) -> None:
    text = " ".join(words(engine))
    assert "trust-remote-code" not in text
    assert {"vllm": "--generation-config vllm", "sglang": "--sampling-defaults openai"}[engine] in text


@pytest.mark.parametrize(
    ("name", "value", "vllm", "sglang"),
    [
        ("serve.max_queue", 8, "--max-num-queued-reqs 8", "--max-queued-requests 8"),
        ("engine.max_sequences", 4, "--max-num-seqs 4", "--max-running-requests 4"),
        ("engine.step_tokens", 512, "--max-num-batched-tokens 512", "--chunked-prefill-size 512"),
        ("engine.page_size", 32, "--block-size 32", "--page-size 32"),
        ("engine.prefix_cache", False, "--no-enable-prefix-caching", "--disable-radix-cache"),
        ("engine.prefix_cache", True, "--enable-prefix-caching", "openai"),
        ("engine.deterministic", True, "longcat", "--enable-deterministic-inference"),
        ("engine.drafts", "off", "longcat", "openai"),
    ],
)
def test_settings_are_mapped(name: str, value: object, vllm: str, sglang: str) -> None:
    for engine, expected in (("vllm", vllm), ("sglang", sglang)):
        asked = HandOver(engine, MODEL, "flash", settings={name: value}, arguments=["--tp", "8"])  # type: ignore[arg-type]
        assert " ".join(launch_of(asked, ["run"]).words).endswith(f"{expected} --tp 8")


def test_settings_of_one_engine_only() -> None:
    assert words("vllm", settings={"serve.drain.seconds": 60.0})[-2:] == ["--shutdown-timeout", "60"]
    assert words("sglang", settings={"engine.cache_tokens": 4096})[-2:] == ["--max-total-tokens", "4096"]
    deterministic = launch_of(HandOver("vllm", MODEL, "flash", settings={"engine.deterministic": True}), [])
    assert deterministic.environment == {"VLLM_BATCH_INVARIANT": "1"}


def test_drafts_of_the_mtp_layer() -> None:
    settings = {"engine.draft_tokens": 2, "engine.drafts": "mtp"}
    method = {"method": "longcat_flash_mtp", "model": str(MODEL), "num_speculative_tokens": 2}
    assert json.loads(words("vllm", settings=settings)[-1]) == method
    sglang = " ".join(words("sglang", settings=settings))
    assert "--speculative-algorithm NEXTN" in sglang
    assert "--speculative-num-steps 2 --speculative-eagle-topk 1 --speculative-num-draft-tokens 3" in sglang


@pytest.mark.parametrize(
    ("engine", "asked", "message"),
    [
        ("vllm", {"port": 0}, "vLLM picks no free port"),
        ("sglang", {"uds": Path("x")}, "SGLang has no counterpart of --uds"),
        ("vllm", {"tls_cert": Path("x")}, "--tls-cert and --tls-key belong together"),
        ("vllm", {"api_keys": ("a", "b")}, "vLLM is started with one key, 2 were given"),
        ("sglang", {"settings": {"serve.drain.seconds": 3}}, "serve.drain.seconds: 3 has no counterpart in SGLang"),
        ("vllm", {"settings": {"engine.cache_tokens": 3}}, "engine.cache_tokens: 3 has no counterpart in vLLM"),
        ("vllm", {"settings": {"serve.chat_tokens": 3}}, "serve.chat_tokens: 3 has no counterpart in vLLM"),
        ("vllm", {"settings": {"serve.page": True}}, "serve.page: True has no counterpart in vLLM"),
        ("vllm", {"settings": {"engine.drafts": "ngram"}}, "engine.drafts: 'ngram' has no counterpart in vLLM"),
        ("vllm", {"settings": {"engine.prefix_cache": 1}}, "engine.prefix_cache: 1 has no counterpart in vLLM"),
        ("vllm", {"settings": {"serve.max_queue": "many"}}, "serve.max_queue: expected a number"),
        ("vllm", {"settings": {"serve.max_queue": True}}, "serve.max_queue: expected a number"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(engine: Engine, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        words(engine, **asked)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_key_is_neither_an_argument_nor_shown(engine: Engine) -> None:
    launch = launch_of(HandOver(engine, MODEL, "flash", api_keys=("s3cret",)), ["run"])
    assert "s3cret" not in " ".join(launch.words)
    assert "s3cret" not in shown(launch)
    assert "s3cret" in [*launch.environment.values(), *launch.private.values()]


def test_the_identity_part_is_named_where_it_matters() -> None:
    def named(engine: Engine, experts: int, factor: float) -> bool:
        told = differences(engine, zero_experts=experts, routed_scaling_factor=factor)
        return any("zero-computation experts" in sentence for sentence in told)

    assert named("sglang", 256, 6.0)
    assert not named("sglang", 0, 6.0)
    assert not named("sglang", 256, 1.0)
    assert not named("vllm", 256, 6.0)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fake engines on PATH; returns the file in which they tell what they were called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for engine in ENGINES:
        file = folder / engine
        file.write_text(FAKE)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("TOLD", str(tmp_path / "told.json"))
    monkeypatch.delenv("LONGCAT_API_KEY", raising=False)
    return tmp_path / "told.json"


def test_a_missing_engine_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for engine, name in NAMES.items():
        with pytest.raises(UsageError, match=f"{name} is not installed: there is no `{engine}` on PATH"):
            find_engine(engine, str(tmp_path))
    broken = tmp_path / "vllm"
    broken.write_text("#!/nowhere/python\n")
    broken.chmod(0o755)
    with pytest.raises(UsageError, match="cannot be started: No such file"):
        run_engine(Launch(find_engine("vllm", str(tmp_path))))


def test_the_exit_code_is_the_engine_s(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODE", "7")
    assert run_engine(Launch(find_engine("vllm"))) == 7
    assert run_engine(Launch([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])) == 128 + 9


def serve(checkpoint: Path, engine: str, *more: str) -> list[str]:
    return ["serve", "--checkpoint", str(checkpoint), "--engine", engine, *more]


def test_a_dry_run_shows_the_command_and_starts_nothing(
    checkpoint: Path, fakes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("LONGCAT_API_KEY", "s3cret")
    more = ("--model-name", "tiny", "--max-queue", "8", "--dtype", "bfloat16", "--set", "engine.step_tokens=512")
    more += ("--drafts", "mtp", "--deterministic", "--dry-run", "--", "--tp-size", "8")
    assert run(serve(checkpoint, "sglang", *more)) == 0
    told = capsys.readouterr()
    assert told.out == (
        f"sglang serve --model-path {checkpoint} --served-model-name tiny --host 127.0.0.1 --port 8000 "
        "--sampling-defaults openai --dtype bfloat16 --max-queued-requests 8 --chunked-prefill-size 512 "
        f"--speculative-algorithm NEXTN --speculative-draft-model-path {checkpoint} --speculative-num-steps 1 "
        "--speculative-eagle-topk 1 --speculative-num-draft-tokens 2 --enable-deterministic-inference "
        "--tp-size 8 --config FILE-WITH-API-KEY\n"
    )
    assert "note: SGLang (seen in 0.5.23) does not multiply" in told.err
    assert "s3cret" not in told.err + told.out
    assert not fakes.exists()


def test_an_engine_gets_its_key_privately(checkpoint: Path, fakes: Path) -> None:
    assert run(serve(checkpoint, "vllm", "--api-key", "s3cret")) == 0
    assert json.loads(fakes.read_text())["key"] == "s3cret"
    assert run(serve(checkpoint, "sglang", "--api-key", 'a "key": #1')) == 0
    told = json.loads(fakes.read_text())
    assert told["config"] == 'api-key: "a \\"key\\": #1"\n'
    assert told["mode"][1] == "0o700"
    assert not Path(told["arguments"][-1]).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("code", [0, 3])
def test_signals_are_passed_on_once_and_the_engine_decides_how_it_ends(
    checkpoint: Path, fakes: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    monkeypatch.setenv("WAIT", "1")
    monkeypatch.setenv("CODE", str(code))
    with subprocess.Popen([sys.executable, "-m", "longcat.cli", *serve(checkpoint, "vllm")]) as command:
        deadline = time.monotonic() + 60
        while not fakes.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert json.loads(fakes.read_text())["group"]
        command.send_signal(number)
        assert command.wait(60) == code
    assert Path(f"{fakes}.signal").read_text() == str(int(number))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--engine", "vllm", "--allowed-host", "a.example"], "vLLM has no counterpart of --allowed-host"),
        (["--engine", "vllm", "--device", "cpu"], "vLLM has no counterpart of --device cpu"),
        (["--engine", "vllm", "--threads", "2"], "vLLM has no counterpart of --threads"),
        (["--engine", "vllm", "--page"], "serve.page: True has no counterpart in vLLM"),
        (["--engine", "vllm", "--weights", "int8"], "engine.weights: 'int8' has no counterpart in vLLM"),
        (["--engine", "sglang", "--drafts", "ngram"], "engine.drafts: 'ngram' has no counterpart in SGLang"),
        (["--dry-run"], "--dry-run needs --engine vllm or sglang"),
        (["--export-dir", "x"], "--export-dir needs --engine vllm or sglang"),
        (["--", "--tp-size", "8"], "unexpected argument '--tp-size'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    checkpoint: Path, fakes: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert run(["serve", "--checkpoint", str(checkpoint), *more]) == 2
    assert message in capsys.readouterr().err
    assert not fakes.exists()


def test_another_layout_is_exported_once_into_a_folder_of_its_own(checkpoint: Path, tmp_path: Path) -> None:
    foreign, export = tmp_path / "foreign", tmp_path / "export"
    export_checkpoint(checkpoint, foreign, layout="transformers5", progress=SilentProgress())
    with pytest.raises(UsageError, match="the weights are in the layout transformers5"):
        engine_model(foreign, None, SilentProgress())
    model, config = engine_model(foreign, export, SilentProgress())
    assert (model, config.zero_expert_num > 0) == (export, True)
    before = {path.name: path.stat().st_mtime_ns for path in export.iterdir()}
    assert engine_model(foreign, export, SilentProgress())[0] == export
    assert {path.name: path.stat().st_mtime_ns for path in export.iterdir()} == before
    assert engine_model(export, None, SilentProgress())[0] == export
    with pytest.raises(InputError, match="is an export of another checkpoint"):
        engine_model(checkpoint, export, SilentProgress())
    (export / MARK).unlink()
    with pytest.raises(InputError, match="is not empty"):
        engine_model(foreign, export, SilentProgress())


@pytest.mark.parametrize(("weights", "code"), [("fp8", 0), ("int8", 3)])
def test_quantised_weights_are_handed_over_if_the_engines_read_them(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: str, code: int
) -> None:
    store = ["--quiet", "--store", str(tmp_path / "store")]
    assert run([*store, "import", str(checkpoint), "--name", "plain"]) == 0
    assert run([*store, "quantize", "plain", "--weights", weights, "--name", "small"]) == 0
    capsys.readouterr()
    assert run([*store, "serve", "--checkpoint", "small", "--engine", "vllm", "--dry-run"]) == code
    told = capsys.readouterr()
    assert told.out.startswith("vllm serve ") if code == 0 else f"weights are {weights}" in told.err
