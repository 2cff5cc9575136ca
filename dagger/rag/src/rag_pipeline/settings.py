"""What an operator configures for `rag`; the only place here that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import platformdirs
from pydantic import Field, SecretStr, create_model

from rag_kit.errors import StepError
from rag_kit.settings import PacedSettings

from .rewriting import Rewriting
from .stages import CANDIDATES, PIPELINE, Stage, listing

URL = r"^https?://[^\s/]+"
_NOT_A_STEP = " (the URL of a reranking server, for the local step, is RAG_RERANKER_URL)"


if TYPE_CHECKING:
    StepUrls = PacedSettings
else:
    StepUrls = create_model(
        "StepUrls",
        __base__=PacedSettings,
        **{
            f"{stage.name}_url": (
                str | None,
                Field(
                    None,
                    pattern=URL,
                    description=f"URL of a running `{stage.name}`"
                    + (
                        "; without it the pipeline has no such step."
                        if stage.optional
                        else "; set that of every step, or of none."
                    ),
                ),
            )
            for stage in PIPELINE
        },
    )


class RagSettings(StepUrls):
    """Settings of `rag`, from arguments or `RAG_…` environment variables.

    The steps have settings of their own; in one process they read the same environment.
    """

    PACES: ClassVar = {pace: {"step_deadline_s": 330.0} for pace in ("local", "reasoning")}

    home: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("rag", appauthor=False)),
        description="Folder of the embedded store.",
    )
    step_deadline_s: float = Field(
        60.0,
        gt=0,
        description="Seconds one call of a step behind a URL may take; 330 by RAG_LLM_PACE.",
    )

    rewriting: Rewriting = Field(
        "model",
        description="Who completes a follow-up question for the search: model (the configured one, within 3 "
        "seconds; without one, terms), terms (those of the conversation), off.",
    )
    api_key: SecretStr | None = Field(
        None, description="Key of the service that `rag index --service` sends documents to."
    )
    api_key_file: Path | None = Field(None, description="File that holds this key.")

    rerank_candidates: int = Field(
        CANDIDATES,
        ge=1,
        le=100,
        description="Passages a reranker chooses from, where a request does not say; each costs a run of "
        "its model.",
    )

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages of the pipeline, with as many candidates as configured."""
        return tuple(
            replace(stage, candidates=stage.candidates and self.rerank_candidates)
            for stage in PIPELINE
        )

    def step_urls(self) -> dict[str, str]:
        """Return the URLs by step, of optional ones where set, or none when the steps are local.

        Raises:
            StepError: `misconfigured`, only some of them are set.
        """
        urls = {stage.name: getattr(self, f"{stage.name}_url") for stage in PIPELINE}
        known = {step: url for step, url in urls.items() if url}
        needed = [stage for stage in PIPELINE if not stage.optional]
        missing = [stage.url_variable for stage in needed if stage.name not in known]
        if known and missing:
            raise StepError(
                "misconfigured",
                f"{' and '.join(missing)} not set although "
                f"{listing([stage.url_variable for stage in PIPELINE if stage.name in known])} "
                f"{'is' if len(known) == 1 else 'are'}; set all of them, or none for local steps"
                + (_NOT_A_STEP if [*known] == ["rerank"] else ""),
            )
        return known


@contextmanager
def overridden(values: Mapping[str, str]) -> Iterator[None]:
    """Read these variables, and else those of now, until the block ends; an empty value unsets one."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def read_settings() -> RagSettings:
    """Return the settings the environment gives.

    Raises:
        StepError: `misconfigured`, a variable has a value that cannot be used.
    """
    return RagSettings.read()
