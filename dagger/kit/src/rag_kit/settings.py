"""Base classes of every step's settings: the environment, keys in files, circuit breakers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .errors import StepError

# Words of a variable's name: no error shows its value.
SENSITIVE = {"KEY", "KEYS", "TOKEN", "URL", "CANARIES"}


class StepSettings(BaseSettings):
    """Settings of a step, from arguments or `RAG_…` environment variables; an empty one is unset."""

    model_config = SettingsConfigDict(
        env_prefix="RAG_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    @classmethod
    def read(cls) -> Self:
        """Return the settings the environment gives.

        Raises:
            StepError: `misconfigured`, a variable has a value that cannot be used.
        """
        try:
            return cls()
        except ValidationError as error:
            raise misconfigured(error) from None

    def secret(self, name: str, *, code: str) -> str | None:
        """Return a key from its variable `RAG_<NAME>` or from the file `RAG_<NAME>_FILE`, or None.

        Raises:
            StepError: With this code: the file cannot be read as text.
        """
        value: SecretStr | None = getattr(self, name)
        path: Path | None = getattr(self, f"{name}_file")
        if value is not None or path is None:
            return value.get_secret_value() if value is not None else None
        return read_file(f"RAG_{name.upper()}_FILE", path, code=code).strip()


def read_file(variable: str, path: Path, *, code: str) -> str:
    """Return the text of a file that a variable names.

    Raises:
        StepError: With this code: the file cannot be read, or is no text; its content is not shown.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        reason = "cannot be read as text in UTF-8"
    raise StepError(code, f"{variable}={path} {reason}; check its path and who may read it")


class BreakerSettings(StepSettings):
    """When a dependency's calls are refused, and how many are retried."""

    retry_share: float = Field(
        0.1, ge=0, le=1, description="Retries per call of a dependency, on average."
    )
    breaker_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of a dependency's calls that must fail until calls are refused for a while.",
    )
    breaker_calls: int = Field(20, ge=1, description="Calls needed to judge that.")
    breaker_window_s: float = Field(10.0, gt=0, description="Seconds in which calls count for it.")
    breaker_probe_s: float = Field(
        2.0, gt=0, description="Seconds between two calls that are let through meanwhile."
    )


class PacedSettings(StepSettings):
    """Settings with deadlines that follow from how fast the language model is.

    Attributes:
        PACES: By pace, the defaults that differ from the fields' own.
    """

    PACES: ClassVar[dict[str, dict[str, float]]] = {}

    llm_pace: Literal["hosted", "local", "reasoning"] = Field(
        "hosted",
        description="How fast the language model is; sets the deadlines of this table that are unset. "
        "local: a model on a processor; reasoning: one that thinks before its first word.",
    )

    @model_validator(mode="before")
    @classmethod
    def _pace(cls, data: Any) -> Any:
        return {**cls.PACES.get(str(data.get("llm_pace")), {}), **data}


def misconfigured(error: ValidationError) -> StepError:
    """Return the error that names the first variable at fault, the rule, and a value that is not secret."""
    first = error.errors(include_url=False)[0]
    name = "_".join(["RAG", *(str(part).upper() for part in first["loc"])])
    value = "" if SENSITIVE & set(name.split("_")) else f", but got {first['input']!r}"
    return StepError("misconfigured", f"{name}: {first['msg']}{value}")
