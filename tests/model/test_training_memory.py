"""The estimated memory of a training step, compared with the tensors that a step keeps."""

from typing import Any

import pytest
import torch

from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.training_memory import LIBRARIES, RETAINED, training_memory
from longcat.model.transformer import LongcatFlash

TOLERANCE = 0.2
BATCH, LENGTH = 2, 128


def kept_bytes(model: LongcatFlash) -> int:
    """Bytes of the storages that the backward pass of the first layer needs, without the parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.randint(model.config.vocab_size, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    h_BTD = model.embed(tokens)
    where = model.context(tokens)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output: Any = model.model.layers[0](h_BTD, where)
    assert output is not None
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", ["tiny", "demo", "lc-100m"])
def test_activations_are_those_that_a_layer_keeps(preset: str, dtype: Any) -> None:
    config = load_preset(preset).model_copy(update={"num_layers": 1, "vocab_size": 256})
    model = LongcatFlash(config)
    initialize(model, seed=0)
    model = model.to(getattr(torch, dtype))
    for router in model.routers():
        router.float()
    estimate = training_memory(config, dtype, BATCH * LENGTH)
    assert estimate.activations == pytest.approx(kept_bytes(model), rel=TOLERANCE)


def test_weights_gradients_and_moments_by_hand() -> None:
    config = load_preset("lc-100m")
    n = sum(p.numel() for p in LongcatFlash(config).parameters())
    exact = training_memory(config, "float32", 2048)
    assert (exact.weights, exact.copy, exact.moments, exact.gradients) == (4 * n, 0, 8 * n, 4 * n)
    half = training_memory(config, "bfloat16", 2048)
    assert (half.weights, half.copy, half.moments, half.gradients) == (4 * n, 2 * n, 8 * n, 2 * n)
    assert training_memory(config, "bfloat16", 1024, parts=2).gradients == 4 * n
    # Logits of 2,048 tokens of 16,384 ids are 64 MiB in half precision; the output matrix has 16,384 x 512 values.
    assert half.loss == (64 << 20) + 2 * 16384 * 512
    assert half.peak == 14 * n + max(2 * n, half.activations + half.loss)


def test_what_a_process_needs_beside_its_tensors() -> None:
    config = load_preset("tiny")
    n = 4 * sum(p.numel() for p in LongcatFlash(config).parameters())
    one = training_memory(config, "float32", 2048)
    step = round(RETAINED * (one.activations + one.loss))
    assert one.peak == 3 * n + one.activations + one.loss
    assert one.host_peak == LIBRARIES + 2 * 3 * n + step
    several = training_memory(config, "float32", 2048, parts=2, averaged=True)
    assert several.peak == 5 * n + one.activations + one.loss
    assert several.host_peak == LIBRARIES + (2 * 4 + 1) * n + step


def test_checkpointing_keeps_less() -> None:
    config = load_preset("lc-100m")
    found = [training_memory(config, "float32", 2048, checkpointing=kind) for kind in ("none", "selective", "block")]
    assert found[0].activations > found[1].activations
    assert found[0].activations > found[2].activations
    # The input of each of 4 layers, and all of one layer.
    assert found[2].activations == pytest.approx(2048 * 4 * 512 * 4 + found[0].activations / 4, abs=1)


def test_ngram_tables_have_gradients_of_the_rows_read_and_no_copy() -> None:
    config = load_preset("tiny-ngram")
    assert config.ngram_tables is not None
    tables = config.ngram_tables.rows * 24
    rest = sum(p.numel() for p in LongcatFlash(config).parameters()) - tables
    few = training_memory(config, "bfloat16", 128, parts=2)
    assert (few.copy, few.gradients) == (2 * rest, 4 * rest + 4 * 24 * 4 * 2 * 128)
    many = training_memory(config, "float32", 1 << 20)
    assert (many.weights, many.gradients, many.moments) == (
        4 * (rest + tables),
        4 * (rest + tables),
        8 * (rest + tables),
    )


def test_muon_keeps_one_moment_of_hidden_matrices() -> None:
    config = load_preset("lc-100m")
    adam, muon = (training_memory(config, "float32", 2048, optimizer=kind) for kind in ("adamw", "muon"))
    hidden = {
        name: parameter.numel()
        for name, parameter in LongcatFlash(config).named_parameters()
        if parameter.ndim > 1 and not name.endswith(("embed_tokens.weight", "lm_head.weight", "classifier.weight"))
    }
    assert adam.moments - muon.moments == 4 * sum(hidden.values())
    largest = 32 * 2 * 320 * 512  # gate and up projections of all experts of a layer
    assert (adam.update, muon.update) == (0, 3 * 4 * largest)
    assert max(hidden.values()) == largest
    small = training_memory(load_preset("smoke"), "float32", 64, optimizer="muon")
    small_adam = training_memory(load_preset("smoke"), "float32", 64)
    assert small.update == 3 * (small_adam.moments - small.moments) > 0
    assert muon.peak == muon.weights + muon.moments + max(muon.gradients + muon.update, muon.activations + muon.loss)
