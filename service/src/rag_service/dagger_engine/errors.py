"""Failures of the engine: no session, a lost session, a killed container."""

from __future__ import annotations

import re

from rag_kit.errors import StepError

KILLED = 137  # exit code of a process that was killed, most often for its memory
TRACE = re.compile(r" ?\[traceparent:[^\]]*\]")
REMEDY = (
    "install the Dagger CLI (https://docs.dagger.io/install) and a container runtime such as "
    "Docker, or point _EXPERIMENTAL_DAGGER_RUNNER_HOST to a running engine; or set "
    "RAG_RUNNER=local, which needs neither"
)


def unavailable(text: str) -> StepError:
    """Return the error of a request that finds no session ready."""
    return StepError("engine_unavailable", text, retry_after=2)


def lost(why: str) -> StepError:
    """Return the error of a call whose session ended under it."""
    text = f"the Dagger session ended before it answered: {why}; send the request again"
    return StepError("engine_lost", text, retry_after=2)


def out_of_memory(step: str | None = None) -> StepError:
    """Return the error of a container that was killed."""
    which = f"the container of the step {step}" if step else "a container of the pipeline"
    text = (
        f"{which} was killed (exit code {KILLED}), most likely out of memory; give the engine "
        "more, or send fewer questions at once"
    )
    return StepError("module_oom", text, step=step, retry_after=5)
