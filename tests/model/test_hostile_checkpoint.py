"""Untrusted checkpoint folders: bounded before allocation, and one error for any fault."""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from longcat.model.checkpoint import Conversion, load_config, load_pretrained, save_pretrained
from longcat.model.errors import CheckpointError, ModelConfigError, ModelError
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def saved(build_model: BuildModel, tmp_path: Path) -> Path:
    save_pretrained(build_model(), tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def sharded(build_model: BuildModel, tmp_path: Path) -> Path:
    save_pretrained(build_model(), tmp_path / "sharded", max_shard_bytes=50_000)
    return tmp_path / "sharded"


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Limit time and memory of the block."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def configured(folder: Path, **over: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | over))


HUGE = [
    {"num_layers": 2_000_000_000},
    {"num_layers": 1 << 62},
    {"num_layers": -1},
    {"num_layers": 2.0},
    {"num_layers": "2"},
    {"num_layers": True},
    {"num_layers": [2]},
    {"num_layers": None},
    {"num_layers": 1024, "n_routed_experts": 300},
    {"num_layers": 1000},
    {"hidden_size": 1 << 62},
    {"hidden_size": 1 << 31, "ffn_hidden_size": 1 << 33},
    {"hidden_size": 1 << 24, "expert_ffn_hidden_size": 1 << 24, "n_routed_experts": 1 << 16},
    {"hidden_size": 1 << 24, "vocab_size": 1 << 24},
    {"hidden_size": 1 << 24},
    {"hidden_size": 0},
    {"vocab_size": 1 << 40},
    {"vocab_size": 1 << 24},
    {"n_routed_experts": 10**6},
    {"n_routed_experts": 10**7, "num_layers": 10**4},
    {"n_routed_experts": 1 << 16},
    {"zero_expert_num": 10**9},
    {"zero_expert_num": 1 << 16},
    {"num_attention_heads": 1 << 24, "v_head_dim": 1 << 24},
    {"q_lora_rank": 1 << 63},
    {"kv_lora_rank": -5},
    {"qk_rope_head_dim": (1 << 24) + 2},
    {"moe_topk": 10**12},
    {"max_position_embeddings": 1 << 62},
    {"rope_theta": 1e300},
    {"rms_norm_eps": -1.0},
    {"zero_expert_types": {"zero": 10**12}},
    {"unknown": "x" * 100_000},
    {"model_type": "x" * 100_000},
    {"quantization_config": {"quant_method": "x" * 100_000}},
    {"rope_scaling": [[[[]]]] * 10_000},
    {"architectures": {"a": ["b"] * 10_000}},
    {"num_nextn_predict_layers": 10**9},
]


@pytest.mark.parametrize("over", HUGE, ids=range(len(HUGE)))
def test_sizes_in_a_configuration_are_bounded(over: dict[str, Any], saved: Path) -> None:
    configured(saved, **over)
    for read in (load_pretrained, Conversion):
        with pytest.raises(ModelError) as caught:
            read(saved)
        message = str(caught.value)
        assert str(saved) in message
        assert len(message) < 500 + len(str(saved))
        assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": ' * 50_000, '{"num_layers": ' + "9" * 5000 + "}", "[]", "3", "\x00"]
)
def test_a_configuration_that_is_not_an_object(text: str, saved: Path) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        load_config(saved)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_invalid_numbers(value: str, saved: Path) -> None:
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_text(text.replace('"rope_theta": 10000000.0', f'"rope_theta": {value}'))
    assert (saved / "config.json").read_text() != text
    with pytest.raises(ModelError, match=r"config\.json: "):
        load_config(saved)


def test_a_duplicate_key(saved: Path) -> None:
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_text(text.replace("{", '{"num_layers": 1, ', 1))
    with pytest.raises(CheckpointError, match="the same key twice"):
        load_config(saved)


def test_pipes_and_folders_are_not_read(saved: Path) -> None:
    for name in ("config.json", WEIGHTS):
        kept = (saved / name).read_bytes()
        (saved / name).unlink()
        for make in (os.mkfifo, os.mkdir):
            make(saved / name)
            with pytest.raises(CheckpointError, match=name):
                load_pretrained(saved)
            (saved / name).rmdir() if (saved / name).is_dir() else (saved / name).unlink()
        (saved / name).symlink_to("/dev/zero")
        with pytest.raises(CheckpointError, match=name):
            load_pretrained(saved)
        (saved / name).unlink()
        (saved / name).symlink_to(name)
        with pytest.raises(CheckpointError, match=name):
            load_pretrained(saved)
        (saved / name).unlink()
        (saved / name).write_bytes(kept)
    load_pretrained(saved)


def header(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write(path: Path, entries: dict[str, Any] | bytes, body: bytes) -> None:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def _twice(entries: dict[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    return text[:-1] + b", " + text[text.index(b'"model.') : -1] + b"}"


HEADERS: list[Callable[[dict[str, Any]], Any]] = [
    lambda entries: entries["lm_head.weight"].update(data_offsets=[0, 1 << 62]),
    lambda entries: entries["lm_head.weight"].update(data_offsets=[10, 2]),
    lambda entries: entries["lm_head.weight"].update(data_offsets=[-1, 2]),
    lambda entries: entries["lm_head.weight"].update(data_offsets=entries["model.norm.weight"]["data_offsets"]),
    lambda entries: entries["lm_head.weight"].update(shape=[1 << 62, 1 << 62]),
    lambda entries: entries["lm_head.weight"].update(shape=[-1, 32]),
    lambda entries: entries["lm_head.weight"].update(shape=[10**300] * 100_000),
    lambda entries: entries["lm_head.weight"].update(shape=[True, 3104]),
    lambda entries: entries["lm_head.weight"].update(data_offsets=[0]),
    lambda entries: entries["lm_head.weight"].update(more=1),
    lambda entries: entries["lm_head.weight"].update(shape=[]),
    lambda entries: entries["lm_head.weight"].update(shape=[32, 97]),
    lambda entries: entries["lm_head.weight"].update(dtype="F8_E4M3"),
    lambda entries: entries["lm_head.weight"].update(dtype="I32"),
    lambda entries: entries["lm_head.weight"].update(dtype="XX"),
    lambda entries: entries["lm_head.weight"].pop("shape"),
    lambda entries: entries.update(__metadata__={"a": 1}),
    lambda entries: entries.update({"\x1b[31m": entries["lm_head.weight"]}),
    lambda entries: entries.clear(),
    _twice,
    lambda _: b"[" * 100_000,
    lambda _: b"\xff\xfe",
    lambda _: b"",
]


@pytest.mark.parametrize("edit", HEADERS, ids=range(len(HEADERS)))
def test_a_header_that_contradicts_the_file_is_refused(edit: Callable[[dict[str, Any]], Any], saved: Path) -> None:
    entries, body = header(saved / WEIGHTS)
    result = edit(entries)
    write(saved / WEIGHTS, result if isinstance(result, bytes) else entries, body)
    with pytest.raises(CheckpointError, match=r"saved"):
        load_pretrained(saved)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\xff" * 8, struct.pack("<Q", 1 << 60), struct.pack("<Q", 99_999_999) + b"{}"]
)
def test_a_header_of_absurd_length_is_refused(data: bytes, saved: Path) -> None:
    (saved / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        load_pretrained(saved)


@pytest.mark.parametrize(
    "name",
    [
        *("../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "a\0.safetensors", "x.bin", "", ".", 3, None),
        *(["x.safetensors"], "a" * 300 + ".safetensors", "..\\x.safetensors", "\x1b[31m.safetensors"),
    ],
)
def test_an_index_may_only_name_files_of_its_folder(name: Any, sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = name
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not a safetensors file of this folder") as caught:
        load_pretrained(sharded)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000, '{"weight_map": 3}', "\0"]
)
def test_an_invalid_index(text: str, sharded: Path) -> None:
    (sharded / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json: "):
        load_pretrained(sharded)


def test_an_index_with_too_few_layers(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    first = "model-00001-of-00005.safetensors"
    index["weight_map"] = {key: name for key, name in index["weight_map"].items() if name == first}
    (sharded / INDEX).write_text(json.dumps(index))
    configured(sharded, num_layers=1000)
    with pytest.raises(CheckpointError, match=r"num_layers = 1000, .* asks for at least \d+ tensors, the files hold"):
        load_pretrained(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    files = sorted(sharded.glob("model-*.safetensors"))
    (one, body), (two, other) = header(files[0]), header(files[1])
    key, entry = next((key, entry) for key, entry in one.items() if key != "__metadata__")
    start, end = entry["data_offsets"]
    two[key] = entry | {"data_offsets": [len(other), len(other) + end - start]}
    write(files[1], two, other + body[start:end])
    with pytest.raises(CheckpointError, match=rf"holds '{key}', which is also in {files[0].name}"):
        load_pretrained(sharded)


def test_links_to_files_are_followed(saved: Path, tmp_path: Path) -> None:
    """As in a download cache, which stores files in another folder."""
    (tmp_path / "blob").write_bytes((saved / WEIGHTS).read_bytes())
    (saved / WEIGHTS).unlink()
    (saved / WEIGHTS).symlink_to(tmp_path / "blob")
    assert isinstance(load_pretrained(saved).lm_head, torch.nn.Module)


WEIRD: list[Any] = [None, True, -1, 0, 1 << 40, 1 << 64, 1.5, "x", "", [], {}, [1], {"a": 1}]


def test_mutated_configurations_are_read_or_refused(saved: Path) -> None:
    chosen, original = random.Random(7), json.loads((saved / "config.json").read_text())
    for _ in range(200):
        changed = dict(original)
        for _ in range(chosen.randint(1, 3)):
            changed[chosen.choice(sorted(original))] = chosen.choice(WEIRD)
        (saved / "config.json").write_text(json.dumps(changed))
        try:
            load_pretrained(saved)
        except (CheckpointError, ModelConfigError):
            continue


def test_mutated_weights_are_read_or_refused(saved: Path) -> None:
    chosen, original = random.Random(8), (saved / WEIGHTS).read_bytes()
    (size,) = struct.unpack("<Q", original[:8])
    for _ in range(200):
        data = bytearray(original)
        for _ in range(chosen.randint(1, 4)):
            data[chosen.randrange(8 + size)] = chosen.randrange(256)
        (saved / WEIGHTS).write_bytes(bytes(data))
        try:
            load_pretrained(saved)
        except CheckpointError:
            continue
