"""What a generating model remembers: one latent and one rotary key a position and attention module.

Names: B batch, S cached positions, C latent width, R rotary width.
"""

import torch

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelError


class LatentCache:
    """Latents (normalised and scaled) and rotary keys (rotated) of up to `max_length` positions.

    Every layer has two slots, `2 * layer` and `2 * layer + 1`, one an attention module; a layer of multi-token
    prediction has one more, which fills on its own: position t of it needs token t + 1, so it may lag behind (or lead
    while it drafts). All rows of the batch have the same length.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        slots = 2 * config.num_layers + config.num_nextn_predict_layers
        self.batch_size = batch_size
        self.max_length = max_length
        self.length = 0
        self.mtp_length = 0
        self._mtp_slot = config.mtp_slot
        self._latents = torch.zeros(slots, batch_size, max_length, config.kv_lora_rank, dtype=dtype, device=device)
        self._rope_keys = torch.zeros(
            slots, batch_size, max_length, config.qk_rope_head_dim, dtype=dtype, device=device
        )

    def check_room(self, batch_size: int, tokens: int, length: int) -> None:
        """Raise ModelError unless `tokens` more positions of `batch_size` rows fit behind the first `length`."""
        if batch_size != self.batch_size:
            raise ModelError(f"the cache was made for a batch of {self.batch_size}, the input has {batch_size} rows")
        if length + tokens > self.max_length:
            raise ModelError(
                f"the cache holds {length} of at most {self.max_length} positions, {tokens} more do not fit; "
                "make a longer cache or truncate this one"
            )

    def store(self, slot: int, latent_BTC: torch.Tensor, k_rope_BTR: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new positions of one attention module and return all of its positions, (latent_BSC, k_rope_BSR)."""
        start = self.mtp_length if slot == self._mtp_slot else self.length
        end = start + latent_BTC.shape[1]
        self._latents[slot, :, start:end] = latent_BTC
        self._rope_keys[slot, :, start:end] = k_rope_BTR
        return self._latents[slot, :, :end], self._rope_keys[slot, :, :end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` positions as stored, once every slot of the layers has them."""
        self.length += tokens

    def advance_mtp(self, tokens: int) -> None:
        """Count `tokens` positions of multi-token prediction as stored."""
        self.mtp_length += tokens

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on, and of multi-token prediction also the last one kept.

        That position was computed from the token behind it, which is no longer known to be the same.

        Raises:
            ModelError: `length` is negative or more than what is stored.
        """
        if not 0 <= length <= self.length:
            raise ModelError(f"cannot truncate a cache of {self.length} positions to {length}")
        self.length = length
        self.mtp_length = min(self.mtp_length, max(length - 1, 0))
