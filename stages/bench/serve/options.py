"""What a load test sends."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from longcat.pipeline.errors import UsageError

API = Literal["completions", "chat"]


@dataclass(frozen=True)
class LoadOptions:
    """One load test.

    Args:
        url: address of the server, with or without `/v1`.
        api: `completions` or `chat`.
        model: None asks the server for its first model.
        rate: requests per second with Poisson arrivals (open loop); None sends them from `concurrency` clients, each of
            which waits for its answer before it sends the next one (closed loop).
        requests: number of requests.
        duration: seconds after which no request is sent.
        prompt_tokens: length of random prompts; texts have it on average.
        output_tokens: maximum length of the answers.
        vocabulary: prompts are random token ids below this number instead of text.
        prompts: JSON Lines file of prompts that are sent instead of random ones.
        body: further fields of every request.
        seed: of arrivals and prompts.
        timeout: seconds per request.
    """

    url: str
    api: API = "completions"
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    rate: float | None = None
    concurrency: int = 8
    requests: int | None = None
    duration: float | None = None
    prompt_tokens: int = 128
    output_tokens: int = 128
    vocabulary: int | None = None
    prompts: Path | None = None
    body: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.vocabulary is not None and (self.api == "chat" or self.prompts is not None):
            other = "--api chat" if self.api == "chat" else "--prompts"
            raise UsageError(f"--vocabulary sends token ids, which cannot be combined with {other}")
        taken = sorted({"model", "prompt", "messages", "stream", "stream_options"} & self.body.keys())
        if taken:
            raise UsageError(
                f"--body must not contain {', '.join(taken)}", hint="these fields have options of their own"
            )

    @property
    def base(self) -> str:
        """Address of the API, which ends in `/v1`."""
        address = self.url if "://" in self.url else f"http://{self.url}"
        address = address.rstrip("/")
        return address if address.endswith("/v1") else f"{address}/v1"

    @property
    def path(self) -> str:
        """Address of the requests."""
        return f"{self.base}/{'chat/completions' if self.api == 'chat' else 'completions'}"

    def to_json(self) -> dict[str, Any]:
        """The settings, without the API key."""
        fields = {name: value for name, value in vars(self).items() if name != "api_key"}
        return {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}
