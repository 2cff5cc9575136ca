"""What an operator configures for `rag`; the only place here that reads the environment."""

from __future__ import annotations

from pathlib import Path

import platformdirs
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rag_kit.errors import StepError

URL = r"^https?://[^\s/]+"


class RagSettings(BaseSettings):
    """Settings of `rag`, from arguments or `RAG_…` environment variables.

    The steps have settings of their own; in one process they read the same environment.
    """

    model_config = SettingsConfigDict(
        env_prefix="RAG_", frozen=True, extra="ignore", env_ignore_empty=True
    )

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
    try:
        return RagSettings()
    except ValidationError as error:
        raise misconfigured(error) from None


def misconfigured(error: ValidationError) -> StepError:
    """Name the first variable at fault and the rule; its value may be a key, so it stays unsaid."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = "_".join(["RAG", *(str(part).upper() for part in first["loc"])])
    return StepError("misconfigured", f"the setting {name} cannot be used: {first['msg']}")
