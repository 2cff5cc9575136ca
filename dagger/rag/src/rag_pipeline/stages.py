"""The steps of the pipeline in their order: the one place that lists them.

A new step is a row in PIPELINE, a field for its options in `models.RagRequest`, and a package
`rag_<name>` of its own, whose `wire.open_step` opens it.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from .outputs import AugmentOutput, GenerateOutput, Output, RetrieveOutput


@dataclass(frozen=True)
class Stage:
    """A step's place in the pipeline; its response is the request of the next one.

    Args:
        name: Its options are the field of this name in a request.
        output: What the pipeline needs of its response.
        optional: Whether the pipeline runs without it where nothing runs it.
        candidates: How many passages are searched for it to choose from; None: those of the request.
    """

    name: str
    output: type[Output]
    optional: bool = False
    candidates: int | None = None

    @property
    def package(self) -> str:
        """Python package of our own step; the distribution has dashes."""
        return f"rag_{self.name}"

    @property
    def url_variable(self) -> str:
        """Environment variable with the URL of a running one."""
        return f"RAG_{self.name.upper()}_URL"


CANDIDATES = 30  # passages a reranker chooses from; each costs a run of its model
PIPELINE = (
    Stage("retrieve", RetrieveOutput),
    Stage("rerank", RetrieveOutput, optional=True, candidates=CANDIDATES),
    Stage("augment", AugmentOutput),
    Stage("generate", GenerateOutput),
)
STEPS = tuple(stage.name for stage in PIPELINE)
NEEDED = tuple(stage.name for stage in PIPELINE if not stage.optional)


def present(stages: Sequence[Stage], steps: Container[str]) -> tuple[Stage, ...]:
    """Return the stages of a pipeline that has these steps: optional ones only where there is one."""
    return tuple(stage for stage in stages if not stage.optional or stage.name in steps)


def search_stages(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the stages of a search: those whose response is a list of passages."""
    return tuple(stage for stage in stages if issubclass(stage.output, RetrieveOutput))


def listing(names: Sequence[str]) -> str:
    """Return names as in a sentence: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
