"""Settings of the service; the only module of it that reads the environment."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import httpx
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic_settings import SettingsConfigDict, SettingsError

from rag_kit.errors import StepError
from rag_kit.origins import AllowedOrigins, is_loopback
from rag_kit.settings import PacedSettings, misconfigured, read_file
from rag_pipeline.rewriting import Rewriting
from rag_pipeline.settings import URL

from .access import MAX_GROUPS

ROOT_PATH = r"(?:/[A-Za-z0-9._~-]+)+"
MIN_SECRET = 16  # characters of what signs links
RunnerName = Literal["local", "resident", "call", "containers", "remote"]


class ApiKey(BaseModel):
    """An API key and its permissions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=64, description="Its holder; written to the log.")
    key: SecretStr = Field(
        min_length=16, description="The secret, sent as `Authorization: Bearer`."
    )
    collections: tuple[str, ...] = Field(
        ("*",), description='Collections it may use; "*" is every one.'
    )
    write: bool = Field(False, description="Whether it may add and delete documents.")
    per_minute: int | None = Field(
        None, ge=1, description="Requests a minute; null: as RAG_RATE_PER_MINUTE says."
    )
    groups: tuple[str, ...] | None = Field(
        None,
        max_length=MAX_GROUPS,
        description="Groups whose documents it may read, besides those without `allowed_groups`; "
        "null: every document.",
    )

    @field_validator("key", mode="after")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < 16:
            raise ValueError("a key needs at least 16 characters")
        return value


class ServiceSettings(PacedSettings):
    """Settings of the service, from arguments or `RAG_…` environment variables.

    With the runner `local` the steps read their own settings from the same environment.
    """

    PACES: ClassVar = {pace: {"deadline_s": 330.0} for pace in ("local", "reasoning")}

    model_config = SettingsConfigDict(
        env_prefix="RAG_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    runner: RunnerName = Field(
        "local",
        description="Where the pipeline runs: `local` (this process), `resident` (services of a "
        "Dagger engine), `call` (a Dagger function call per request), `containers` (three "
        "containers per request), `remote` (a running pipeline).",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; beyond loopback needs keys.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    collection: str = Field("default", description="Collection of a request that names none.")
    api_keys: SecretStr | None = Field(
        None,
        description='Keys as JSON: `[{"name", "key", "collections", "write", "per_minute", "groups"}]`.',
    )
    api_keys_file: Path | None = Field(None, description="The same in a file.")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Host headers answered without keys, besides this machine's own names, "
        'as JSON: `["rag.local"]`. Others are refused as DNS rebinding.',
    )
    allowed_origins: AllowedOrigins = Field(
        (),
        description="Other sites whose pages may use the service from a browser (CORS), as JSON: "
        '`["https://app.example.com"]`; without keys they may change documents, too.',
    )
    root_path: str = Field(
        "",
        pattern=rf"^({ROOT_PATH})?$",
        description="Path that a reverse proxy puts before the service's, e.g. `/rag`; none: as a "
        "trusted proxy's `X-Forwarded-Prefix` says.",
    )
    public_url: str | None = Field(
        None,
        pattern=URL,
        description="Address at which users' browsers reach the service, with its prefix, for the links "
        "in citations, e.g. `https://docs.example.com/rag`; none: as the request addressed it.",
    )
    link_secret: SecretStr | None = Field(
        None,
        min_length=MIN_SECRET,
        description="Signs the links of citations, so that a browser opens the cited document without a "
        "key; the same for all replicas. None: a link needs the key that everything needs.",
    )
    link_secret_file: Path | None = Field(None, description="File that holds it instead.")
    link_days: float = Field(7.0, gt=0, le=3650, description="Days such a link lasts.")
    trusted_proxies: tuple[str, ...] = Field(
        ("127.0.0.1", "::1"),
        description='Addresses and networks of reverse proxies, as JSON: `["10.0.0.0/8"]`. '
        "Their `X-Forwarded-For`, `-Proto` and `-Prefix` are believed.",
    )
    groups_header: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="Header in which a trusted proxy lists the groups of its user, separated by "
        "commas; without the header a request sees documents for everybody alone.",
    )
    side_tasks: tuple[Annotated[str, Field(min_length=3)], ...] = Field(
        (),
        description="How the side tasks of chat clients begin (titles, tags, follow-up questions), as "
        'JSON: `["### Task:"]`; the language model answers them without a search. None: they are '
        "questions like any other.",
    )
    oidc_issuer: str | None = Field(
        None,
        pattern=URL,
        description="OpenID Connect provider whose access tokens are accepted beside keys, as the "
        "tokens name it (`iss`); https, or this machine.",
    )
    oidc_audience: str = Field(
        "rag", min_length=1, description="Audience (`aud`) that its tokens must name."
    )
    oidc_groups_claim: str = Field(
        "groups",
        pattern=r"^[^.]+(\.[^.]+)*$",
        description="Claim with the groups of the user, a list or one name; dots lead into it: "
        "`realm_access.roles`.",
    )
    oidc_write_groups: tuple[str, ...] = Field(
        (),
        description="Groups whose members may add and delete documents, as JSON: "
        '`["editors"]`; other users of tokens read only.',
    )
    docs_page: bool = Field(True, description="Serve `/docs` and `/openapi.json`.")

    deadline_s: float = Field(
        30.0, gt=0, description="Seconds one request may take in all; 330 by RAG_LLM_PACE."
    )
    max_concurrency: int = Field(
        8,
        ge=1,
        description="Requests answered at the same time; at most four per processor where this "
        "process computes the answers and waits for no server.",
    )
    max_queue: int = Field(16, ge=0, description="Requests that may wait for a slot.")
    queue_wait_s: float = Field(
        0.5, gt=0, description="Seconds a request may wait before it is refused."
    )
    max_body_bytes: int = Field(256 * 1024, ge=1024, description="Largest request.")
    max_upload_bytes: int = Field(64 * 2**20, ge=1024, description="Largest upload of documents.")
    max_files_bytes: int = Field(
        10 * 2**30, ge=1024, description="Bytes that the files of one key at /v1/files may have."
    )
    max_originals_bytes: int = Field(
        2 * 2**30,
        ge=0,
        description="Bytes of uploaded PDFs that are kept to show their pages; those that were shown longest "
        "ago make room, and are shown as text. 0: none are kept.",
    )
    rate_per_minute: int = Field(
        0, ge=0, description="Requests a minute of one key, or address without keys; 0: any number."
    )
    heartbeat_s: float = Field(
        10.0, gt=0, description="Seconds of silence in a stream before a ping."
    )
    drain_s: float = Field(25.0, ge=0, description="Seconds requests may go on after SIGTERM.")

    probe_query: str = Field(
        "What is this about?",
        description="The question that must pass before the service is ready.",
    )
    probe_retry_s: float = Field(2.0, gt=0, description="Seconds between two probes that fail.")

    log_format: Literal["text", "json"] = Field("text", description="How log lines are written.")
    log_queries: bool = Field(False, description="Write questions to the log; they may be private.")
    otlp_endpoint: str | None = Field(
        None, pattern=URL, description="OpenTelemetry collector (OTLP over HTTP); none: no traces."
    )

    composite_url: str | None = Field(
        None, pattern=URL, description="URL of the running pipeline of the runner `remote`."
    )

    dagger_cli: str = Field("dagger", description="The Dagger command line.")
    dagger_module: str = Field(
        "dagger/rag", description="The module `rag`: a folder, or a git reference with a version."
    )
    dagger_module_digest: str | None = Field(
        None,
        description="The digest that module must have, or the commit of a git reference; no other "
        "one is started. `rag serve` prints it.",
    )
    docs: Path | None = Field(
        None, description="Folder of documents for the Dagger runners; none: the module's own."
    )
    engine_load_s: float = Field(
        900.0, gt=0, description="Seconds building and loading the modules may take."
    )
    engine_rotate_calls: int = Field(
        5000, ge=1, description="Calls of one session before a new one."
    )
    engine_rotate_s: float = Field(
        1800.0, gt=0, description="Seconds of one session before a new one."
    )
    engine_rotate_mib: float = Field(
        256.0, gt=0, description="MiB one session's process may grow before a new one."
    )
    dagger_session_port: int | None = Field(
        None, validation_alias="DAGGER_SESSION_PORT", description="Set by `dagger run`."
    )
    dagger_session_token: SecretStr | None = Field(
        None, validation_alias="DAGGER_SESSION_TOKEN", description="Set by `dagger run`."
    )

    qdrant_url: str | None = Field(
        None, description="As for `retrieve`; passed to the Dagger runners, too."
    )
    qdrant_api_key: SecretStr | None = Field(None, description="Key of the Qdrant server.")
    qdrant_api_key_file: Path | None = Field(None, description="File that holds it instead.")
    llm_base_url: str | None = Field(
        None, description="As for `generate`; passed to the Dagger runners, too."
    )
    llm_model: str | None = Field(None, description="Name of the model there.")
    llm_api_key: SecretStr | None = Field(None, description="Its key.")
    llm_api_key_file: Path | None = Field(None, description="File that holds it instead.")
    rewriting: Rewriting = Field(
        "model", description="As for `rag`; passed to the Dagger runners, too."
    )

    reranker_url: str | None = Field(
        None, description="As for `rerank`; passed to the Dagger runners, too."
    )
    reranker: str | None = Field(None, description="What that server speaks: cohere or tei.")
    reranker_model: str | None = Field(None, description="Name of the model there.")
    reranker_api_key: SecretStr | None = Field(None, description="Its key.")
    reranker_api_key_file: Path | None = Field(None, description="File that holds it instead.")

    @field_validator("trusted_proxies", mode="after")
    @classmethod
    def _networks(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            try:
                ipaddress.ip_network(value, strict=False)
            except ValueError:
                raise ValueError(
                    f"{value!r} is no address or network; write 10.1.2.3 or 10.0.0.0/8, and "
                    "0.0.0.0/0 only where nothing but the proxy reaches the service"
                ) from None
        return values

    @field_validator("oidc_issuer", mode="after")
    @classmethod
    def _secure(cls, value: str | None) -> str | None:
        url = httpx.URL(value or "https://")
        if url.scheme != "https" and not is_loopback(url.host):
            raise ValueError("use https: whoever is on the way could give keys of their own")
        return value

    def runner_secret(
        self, name: Literal["qdrant_api_key", "llm_api_key", "reranker_api_key"]
    ) -> SecretStr | None:
        """Return a key for the Dagger runners from its variable or its file, or None.

        Raises:
            StepError: `misconfigured`, the file cannot be read.
        """
        value = self.secret(name, code="misconfigured")
        return None if value is None else SecretStr(value)

    def keys(self) -> tuple[ApiKey, ...]:
        """Return the configured keys.

        Raises:
            StepError: `misconfigured`: they cannot be read, or two are the same.
        """
        text = self.api_keys.get_secret_value() if self.api_keys else None
        name = "RAG_API_KEYS"
        if self.api_keys_file is not None:
            name = "RAG_API_KEYS_FILE"
            text = read_file(name, self.api_keys_file, code="misconfigured")
        if text is None:
            return ()
        try:
            keys = TypeAdapter(tuple[ApiKey, ...]).validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise StepError("misconfigured", f"{name}: {where or 'it'}: {first['msg']}") from None
        for values in ([key.name for key in keys], [key.key.get_secret_value() for key in keys]):
            if len(set(values)) < len(values):
                raise StepError("misconfigured", f"{name}: two entries have the same name or key")
        return keys

    def check_exposure(self) -> None:
        """Refuse to listen beyond loopback without keys or tokens.

        Raises:
            StepError: `misconfigured`.
        """
        if not (self.keys() or self.oidc_issuer) and not is_loopback(self.host):
            raise StepError(
                "misconfigured",
                f"listening on {self.host} lets other machines in, and no API keys are set; set "
                "RAG_API_KEYS_FILE or RAG_OIDC_ISSUER, or listen on 127.0.0.1",
            )


def process_environment() -> dict[str, str]:
    """Return the variables of this process, for a child of it."""
    return dict(os.environ)


def is_specific(host: str) -> bool:
    """Whether an address is that of one interface, not "all of them"."""
    return not ipaddress.ip_address(host).is_unspecified


def read_settings(**overrides: Any) -> ServiceSettings:
    """Return the settings of the environment, with overrides.

    Raises:
        StepError: `misconfigured`, a variable has a value that cannot be used.
    """
    try:
        return ServiceSettings(**overrides)
    except ValidationError as error:
        raise misconfigured(error) from None
    except SettingsError:
        raise StepError(
            "misconfigured",
            "RAG_ALLOWED_HOSTS, RAG_ALLOWED_ORIGINS, RAG_OIDC_WRITE_GROUPS, RAG_SIDE_TASKS and "
            "RAG_TRUSTED_PROXIES are lists in JSON: "
            'write ["first", "second"]',
        ) from None
