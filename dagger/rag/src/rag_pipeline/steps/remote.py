"""The steps as running servers: one HTTP POST each, over connections that stay open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec

import httpx
from anyio.from_thread import start_blocking_portal

from rag_kit.client import Clients, StepClient, Wording

from ..pipeline import Pipeline
from ..rewriting import Rewriting
from ..stages import PIPELINE, Stage


def step_client(
    name: str, url: str, client: Callable[[], httpx.AsyncClient], deadline_s: float
) -> StepClient:
    """Return a client of the step that serves at `url`; its errors name the step and its setting."""
    variable = f"RAG_{name.upper()}_URL"
    wording = Wording(
        f"the step {name}",
        step=name,
        unreachable="retriever_unavailable" if name == "retrieve" else "not_ready",
        start=f"start its server or mend {variable}",
        check=f"; does {variable} point to it?",
        limit=" (RAG_STEP_DEADLINE_S)",
    )
    return StepClient(url, client, deadline_s, wording)


@contextmanager
def open_remote(
    urls: Mapping[str, str],
    *,
    deadline_s: float,
    wait: bool = False,
    stages: Sequence[Stage] = PIPELINE,
    rewriting: Rewriting = "model",
) -> Iterator[Pipeline]:
    """Yield the pipeline over the servers at `urls` (by stage).

    Args:
        urls: Where each stage serves, by its name.
        deadline_s: Seconds one call of a step may take.
        wait: First wait until all are ready; otherwise nothing is sent before a request.
        stages: The stages in their order.
        rewriting: Who completes a follow-up question for the search.

    Raises:
        StepError: `not_ready`, when one of them does not become ready.
    """
    clients = Clients(deadline_s)
    loops = {"use_uvloop": find_spec("uvloop") is not None}  # not on Windows
    with start_blocking_portal(backend_options=loops) as portal, closing(clients):
        steps = {name: step_client(name, url, clients, deadline_s) for name, url in urls.items()}
        if wait:
            for step in steps.values():
                portal.call(step.ready)
        yield Pipeline(
            steps=steps,
            streaming=steps[stages[-1].name].events,
            portal=portal,
            stages=stages,
            rewriting=rewriting,
        )
