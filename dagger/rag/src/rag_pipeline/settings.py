"""What an operator configures for `rag`; the only place here that reads the environment."""

from __future__ import annotations

from pathlib import Path

import platformdirs
from pydantic import Field

from rag_kit.errors import StepError
from rag_kit.settings import StepSettings

URL = r"^https?://[^\s/]+"


class RagSettings(StepSettings):
    """Settings of `rag`, from arguments or `RAG_…` environment variables.

    The steps have settings of their own; in one process they read the same environment.
    """

    home: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("rag", appauthor=False)),
        description="Folder of the embedded store.",
    )
    retrieve_url: str | None = Field(
        None, pattern=URL, description="A running `retrieve`; with the other two: no local steps."
    )
    augment_url: str | None = Field(None, pattern=URL, description="A running `augment`.")
    generate_url: str | None = Field(None, pattern=URL, description="A running `generate`.")
    step_deadline_s: float = Field(
        60.0, gt=0, description="Seconds one call of a step behind a URL may take."
    )

    def step_urls(self) -> dict[str, str]:
        """Return the URLs by step: all three, or none when the steps are local.

        Raises:
            StepError: `misconfigured`, only some of the three are set.
        """
        urls = {
            "retrieve": self.retrieve_url,
            "augment": self.augment_url,
            "generate": self.generate_url,
        }
        known = {step: url for step, url in urls.items() if url}
        missing = [f"RAG_{step.upper()}_URL" for step in urls if step not in known]
        if known and missing:
            raise StepError(
                "misconfigured",
                f"{' and '.join(missing)} not set although {len(known)} of the three step URLs "
                "is; set all three, or none for local steps",
            )
        return known


def read_settings() -> RagSettings:
    """Return the settings the environment gives.

    Raises:
        StepError: `misconfigured`, a variable has a value that cannot be used.
    """
    return RagSettings.read()
