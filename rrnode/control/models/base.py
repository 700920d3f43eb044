"""What all models of the control API have in common."""

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Frozen, and strict about names, so that a renamed field fails a test and not a user."""

    model_config = ConfigDict(frozen=True, extra="forbid")
