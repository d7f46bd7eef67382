"""Accelerators: peak rates, memory, links and price, each with its source, all of them changeable."""

from __future__ import annotations

from pydantic import Field

from longcat.pipeline.config import StageConfig

TERA, GIGA = 1e12, 1e9


class Device(StageConfig):
    """One device of a cluster; rates of links are in one direction, peaks are dense, without structured sparsity."""

    name: str = Field(description="name that is printed")
    memory: int = Field(gt=0, description="bytes of device memory")
    float32: float = Field(gt=0, description="peak of matrix products in float32, FLOP/s")
    bfloat16: float = Field(gt=0, description="peak of matrix products in bfloat16, FLOP/s")
    fp8: float | None = Field(default=None, gt=0, description="peak of matrix products in FP8, FLOP/s; null: none")
    memory_bandwidth: float = Field(gt=0, description="bytes per second of device memory")
    node_bandwidth: float = Field(gt=0, description="bytes per second to devices of the same node")
    network_bandwidth: float = Field(gt=0, description="bytes per second to other nodes")
    per_node: int = Field(default=8, ge=1, description="devices in a node")
    watts: float = Field(default=0, ge=0, description="power at full load, without the rest of the node")
    dollars_per_hour: float = Field(default=0, ge=0, description="price of one device for an hour")

    def peak(self, dtype: str) -> float:
        """FLOP/s of matrix products in `float32`, `bfloat16` or `fp8` (bfloat16 on devices without it)."""
        rate: float = (self.fp8 or self.bfloat16) if dtype == "fp8" else getattr(self, dtype)
        return rate


def _known(
    name: str,
    *,
    memory: float,
    peaks: tuple[float, float, float | None],
    bandwidths: tuple[float, float, float],
    watts: float,
    price: float,
) -> Device:
    """`memory` in GB; `peaks` of float32, bfloat16 and FP8 in TFLOP/s; `bandwidths` of memory, node and network in
    GB/s."""
    float32, bfloat16, fp8 = peaks
    inside, node, network = (rate * GIGA for rate in bandwidths)
    return Device(
        name=name,
        memory=round(memory * GIGA),
        float32=float32 * TERA,
        bfloat16=bfloat16 * TERA,
        fp8=None if fp8 is None else fp8 * TERA,
        memory_bandwidth=inside,
        node_bandwidth=node,
        network_bandwidth=network,
        watts=watts,
        dollars_per_hour=price,
    )


# Prices: $2 an hour is what the report's tables 6 and 7 assume; the others are round figures in proportion, not quotes.
DEVICES = {
    device.name: device
    for device in (
        # NVIDIA A100 datasheet (SXM, 80 GB): NVLink 600 GB/s in both directions; DGX A100: one 200 Gb/s port a GPU.
        _known("a100", memory=80, peaks=(19.5, 312, None), bandwidths=(2039, 300, 25), watts=400, price=1.2),
        # NVIDIA H100 datasheet (SXM): NVLink 900 GB/s in both directions; DGX H100: one 400 Gb/s port a GPU.
        _known("h100", memory=80, peaks=(66.9, 989.4, 1978.9), bandwidths=(3350, 450, 50), watts=700, price=2.0),
        # As H100, with NVLink of 400 GB/s in both directions (DeepSeek-V3 report, section 3.1 and DeepEP's README).
        _known("h800", memory=80, peaks=(66.9, 989.4, 1978.9), bandwidths=(3350, 200, 50), watts=700, price=2.0),
        # NVIDIA H200 datasheet (SXM): as H100, with 141 GB at 4.8 TB/s.
        _known("h200", memory=141, peaks=(66.9, 989.4, 1978.9), bandwidths=(4800, 450, 50), watts=700, price=2.5),
        # NVIDIA HGX B200 datasheet: eighths of the node's figures at 1,000 W; NVLink 1.8 TB/s in both directions.
        _known("b200", memory=180, peaks=(75, 2250, 4500), bandwidths=(8000, 900, 50), watts=1000, price=4.0),
        # AMD Instinct MI300X datasheet: seven links of 64 GB/s in each direction.
        _known("mi300x", memory=192, peaks=(163.4, 1307.4, 2614.9), bandwidths=(5300, 448, 50), watts=750, price=2.0),
    )
}
CPU = "cpu"
