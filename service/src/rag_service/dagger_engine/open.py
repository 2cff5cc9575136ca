"""The runners on a Dagger engine, made from the service's settings."""

from __future__ import annotations

from ..runners.base import Runner
from ..settings import ServiceSettings
from .session import EngineOptions


def options_of(settings: ServiceSettings) -> EngineOptions:
    """Return what the settings say about engine, module and documents."""
    return EngineOptions(
        cli=settings.dagger_cli,
        module=settings.dagger_module,
        module_digest=settings.dagger_module_digest,
        docs=settings.docs,
        collection=settings.collection,
        qdrant_url=settings.qdrant_url,
        qdrant_api_key=settings.secret("qdrant_api_key"),
        llm_base_url=settings.llm_base_url,
        llm_model=settings.llm_model,
        llm_api_key=settings.secret("llm_api_key"),
        session_port=settings.dagger_session_port,
        session_token=settings.dagger_session_token,
        load_s=settings.engine_load_s,
        deadline_s=settings.deadline_s,
        rotate_calls=settings.engine_rotate_calls,
        rotate_s=settings.engine_rotate_s,
        rotate_mib=settings.engine_rotate_mib,
        drain_s=max(settings.drain_s, settings.deadline_s),
        probe=settings.probe_query,
    )


def open_dagger_runner(settings: ServiceSettings) -> Runner:
    """Return the configured one of `resident`, `call` and `containers`, not started."""
    options = options_of(settings)
    if settings.runner == "resident":
        from .resident import ResidentRunner

        return ResidentRunner(options)
    if settings.runner == "call":
        from .call import CallRunner

        return CallRunner(options)
    return open_containers(settings)


def open_containers(settings: ServiceSettings) -> Runner:
    """Return the container pipeline, not started."""
    from .containers import ContainersRunner

    return ContainersRunner(options_of(settings))
