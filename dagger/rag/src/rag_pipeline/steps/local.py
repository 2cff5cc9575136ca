"""The three steps in this process: the embedded default.

The only file that imports the other packages, and only when it is used: a composite over servers
does not need them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from anyio.from_thread import start_blocking_portal
from pydantic import ValidationError

from rag_kit.errors import StepError, errors_of
from rag_kit.settings import misconfigured
from rag_kit.workers import threads

from ..pipeline import Pipeline

if TYPE_CHECKING:
    from rag_generate.settings import Settings
    from rag_kit.reports import IngestReport as IngestReport
    from rag_kit.reports import Progress as Progress
    from rag_retrieve.retriever import Retriever as Retriever

Opened = TypeVar("Opened")


@dataclass(frozen=True)
class LocalPipeline(Pipeline):
    """The composite over local steps.

    Args:
        retriever: Also ingests.
        breakers: Of the dependencies behind a network: each has a `name` and is `open` or not.
    """

    retriever: Retriever
    breakers: tuple[Any, ...]


@contextmanager
def open_local(
    *, home: Path | None = None, preload: bool = False, retriever: str | None = None
) -> Iterator[LocalPipeline]:
    """Yield the composite over the three steps, each opened once: model, tokenizer, store.

    Args:
        home: An embedded store there instead of the configured one.
        preload: Open every collection now, so that no request has to.
        retriever: "builtin" or "superlinked" instead of the configured one.

    Raises:
        StepError: What keeps a step from opening, e.g. `misconfigured` or `store_locked`.
    """
    with ExitStack() as stack:
        # Closes last: closing the steps is what ends an answer that was given up.
        waiting, computing = (stack.enter_context(threads(io_bound=it)) for it in (True, False))
        opening = waiting.submit(
            _enter, stack, "retrieve", lambda: _retriever(home, preload, retriever)
        )
        augment = waiting.submit(_enter, stack, "augment", _open_augment)
        generate = waiting.submit(_enter, stack, "generate", _open_generate)
        opened, generator = opening.result(), generate.result()
        generator = replace(generator, pool=waiting if generator.breakers else computing)
        yield LocalPipeline(
            replace(
                _retrieve_handler(opened), pool=waiting if opened.breakers else computing
            ).serve,
            replace(augment.result(), pool=computing).serve,
            generator.serve,
            generator.events,
            stack.enter_context(start_blocking_portal()),
            opened,
            (*opened.breakers, *generator.breakers),
        )


@contextmanager
def open_retriever() -> Iterator[Retriever]:
    """Yield the retriever alone, to ingest and to list.

    Raises:
        StepError: What keeps it from opening.
    """
    with errors_of("retrieve"), ExitStack() as stack:
        yield _enter(stack, "retrieve", _retriever)


def _enter(
    stack: ExitStack, step: str, opener: Callable[[], AbstractContextManager[Opened]]
) -> Opened:
    try:
        with errors_of(step):
            return stack.enter_context(opener())
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    except ValidationError as error:
        raise misconfigured(error) from None


def _retriever(
    home: Path | None = None, preload: bool = False, retriever: str | None = None
) -> Retriever:
    from rag_retrieve.retriever import Retriever
    from rag_retrieve.settings import RetrieveSettings

    given: dict[str, Any] = {"home": home, "store": "embedded"} if home else {}
    if retriever is not None:
        given["retriever"] = retriever
    opened = Retriever.open(RetrieveSettings(**given))
    if preload:
        opened.preload()
    return opened


def _retrieve_handler(retriever: Retriever) -> Any:
    from rag_retrieve.wire import handler_for

    return handler_for(retriever)


def _open_augment() -> AbstractContextManager[Any]:
    from rag_augment.wire import open_step

    return open_step()


def _open_generate() -> AbstractContextManager[Any]:
    from rag_generate.wire import open_step

    return open_step()


def generate_settings() -> Settings:
    """Return what is configured for `generate`; raises `misconfigured`."""
    try:
        from rag_generate.settings import Settings

        return Settings()
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    except ValidationError as error:
        raise misconfigured(error) from None


def _missing(error: ModuleNotFoundError) -> StepError:
    return StepError(
        "misconfigured",
        f"a local step needs the package {error.name}, which is not installed; install "
        "rag-retrieve, rag-augment and rag-generate here, or set RAG_RETRIEVE_URL, "
        "RAG_AUGMENT_URL and RAG_GENERATE_URL to use running ones",
    )
