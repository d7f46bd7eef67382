"""Options of attention kinds in the model configuration."""

from pydantic import BaseModel, ConfigDict


class MixerOptions(BaseModel):
    """Options of one kind, nested under `attention` in the configuration; subclasses add fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
