"""The steps of the pipeline, in their order."""

from __future__ import annotations

STEPS: tuple[str, ...] = ("retrieve", "augment", "generate")
