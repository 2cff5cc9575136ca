"""The steps in this process: the embedded default.

The only file that imports the packages of the steps, and only when it is used: a pipeline over
servers does not need them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from anyio.from_thread import start_blocking_portal
from pydantic import ValidationError

from rag_kit.errors import StepError, errors_of
from rag_kit.handler import Handler
from rag_kit.settings import misconfigured
from rag_kit.workers import threads

from ..pipeline import Pipeline
from ..rewriting import Rewriting
from ..settings import read_settings
from ..stages import PIPELINE, Stage, listing

if TYPE_CHECKING:
    from rag_generate.settings import Settings
    from rag_kit.reports import IngestReport as IngestReport
    from rag_kit.reports import Progress as Progress
    from rag_retrieve.retriever import Retriever as Retriever
    from rag_retrieve.sources.source import Source
    from rag_retrieve.sources.sync import SyncOptions

Opened = TypeVar("Opened")


@dataclass(frozen=True, kw_only=True)
class LocalPipeline(Pipeline):
    """The pipeline over local steps.

    Args:
        retriever: Also ingests.
        breakers: Of the dependencies behind a network: each has a `name` and is `open` or not.
    """

    retriever: Retriever
    breakers: tuple[Any, ...]


@contextmanager
def open_local(
    *,
    home: Path | None = None,
    preload: bool = False,
    retriever: str | None = None,
    stages: Sequence[Stage] = PIPELINE,
    rewriting: Rewriting | None = None,
) -> Iterator[LocalPipeline]:
    """Yield the pipeline over local steps, each opened once: model, tokenizer, store.

    Args:
        home: An embedded store there instead of the configured one.
        preload: Open every collection now, so that no request has to.
        retriever: "builtin" or "superlinked" instead of the configured one.
        stages: The stages in their order; the first is `retrieve`. An optional one is opened where
            its settings configure it.
        rewriting: Who completes a follow-up question for the search; None: as configured.

    Raises:
        StepError: What keeps a step from opening, e.g. `misconfigured` or `store_locked`.
    """
    opened_stages = [stage for stage in stages if not stage.optional or _is_configured(stage)]
    with ExitStack() as stack:
        # The threads close after the steps: closing a step ends the requests it still works on.
        waiting, computing = (stack.enter_context(threads(io_bound=it)) for it in (True, False))
        retrieving = waiting.submit(
            _enter, stack, "retrieve", partial(_open_retriever, home, preload, retriever)
        )
        opening = {
            stage.name: waiting.submit(_enter, stack, stage.name, partial(_open_step, stage))
            for stage in opened_stages
            if stage.name != "retrieve"
        }
        opened = retrieving.result()
        handlers = {"retrieve": _retrieve_handler(opened)}
        handlers |= {name: handler.result() for name, handler in opening.items()}
        handlers = {
            name: replace(handler, pool=waiting if handler.breakers else computing)
            for name, handler in handlers.items()
        }
        yield LocalPipeline(
            steps={name: handler.serve for name, handler in handlers.items()},
            streaming=handlers[stages[-1].name].events,
            portal=stack.enter_context(start_blocking_portal()),
            stages=stages,
            rewriting=rewriting or read_settings().rewriting,
            retriever=opened,
            breakers=tuple(each for handler in handlers.values() for each in handler.breakers),
        )


@contextmanager
def open_retriever() -> Iterator[Retriever]:
    """Yield the retriever alone, to ingest and to list.

    Raises:
        StepError: What keeps it from opening.
    """
    with errors_of("retrieve"), ExitStack() as stack:
        yield _enter(stack, "retrieve", _open_retriever)


@contextmanager
def open_source(address: str, *, kind: Any = None, **access: Any) -> Iterator[Source]:
    """Yield a source of documents; see `rag_retrieve.sources.open_source`.

    Args:
        address: A folder, `REPOSITORY#REF:FOLDER`, `s3://BUCKET/PREFIX` or `https://HOST/PATH`.
        kind: What it is, where the address does not tell.
        access: Fields of `rag_retrieve.sources.Access`.

    Raises:
        StepError: `invalid_request`; `misconfigured`, a package or command is not installed.
    """
    try:
        from rag_retrieve.sources import Access, open_source
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    with (
        errors_of("retrieve"),
        closing(open_source(address, kind=kind, access=Access(**access))) as source,
    ):
        yield source


def sync_options(**options: Any) -> SyncOptions:
    """Return how a source is brought; see `rag_retrieve.sources.sync.SyncOptions`."""
    try:
        from rag_retrieve.sources.sync import SyncOptions
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return SyncOptions(**options)


def files_of(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return the files that an ingest of these paths reads: document id and path, by id.

    Raises:
        StepError: `invalid_request`; `misconfigured`, the package is not installed.
    """
    try:
        from rag_retrieve.index.places import find_files
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return [(file.name, file.path) for file in find_files(paths, {}, []).files]


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


def _open_retriever(
    home: Path | None = None, preload: bool = False, retriever: str | None = None
) -> Retriever:
    from rag_retrieve.retriever import Retriever
    from rag_retrieve.settings import RetrieveSettings

    chosen: dict[str, Any] = {"home": home, "store": "embedded"} if home else {}
    if retriever is not None:
        chosen["retriever"] = retriever
    opened = Retriever.open(RetrieveSettings(**chosen))
    if preload:
        opened.preload()
    return opened


def _retrieve_handler(retriever: Retriever) -> Handler:
    from rag_retrieve.wire import handler_for

    return handler_for(retriever)


def _is_configured(stage: Stage) -> bool:
    try:
        with errors_of(stage.name):
            return bool(import_module(f"{stage.package}.wire").is_configured())
    except ModuleNotFoundError as error:
        raise _missing(error) from None


def _open_step(stage: Stage) -> AbstractContextManager[Handler]:
    opened: AbstractContextManager[Handler] = import_module(f"{stage.package}.wire").open_step()
    return opened


def generate_settings() -> Settings:
    """Return what is configured for `generate`; raises `misconfigured`."""
    try:
        from rag_generate.settings import Settings

        return Settings()
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    except ValidationError as error:
        raise misconfigured(error) from None


SAMPLE = (
    ("travel.md", "Travel rules", "Travel requests up to 2,000 euros are signed by the head of the team. "
     "Above that amount the finance director signs, too. Receipts are kept for ten years."),
    ("rooms.md", "Rooms", "The room on the second floor seats twelve people. The front desk books it."),
    ("badges.md", "Badges", "A lost badge is reported to the porter, who blocks it. A new one is 20 euros."),
)  # fmt: skip
QUESTION = "Who signs a travel request of 3,000 euros?"


def try_model(url: str, model: str | None, key_file: Path | None) -> dict[str, Any]:
    """Ask a language model a sample question, in a prompt as `augment` writes it.

    Args:
        url: An OpenAI-compatible server.
        model: Its model; None: the only one.
        key_file: File with the server's key; None: as configured.

    Returns:
        The fields of `rag_generate.trial.Trial`.

    Raises:
        StepError: What keeps the model from answering.
    """
    from rag_augment.models import AugmentRequest
    from rag_augment.wire import open_step as open_augment
    from rag_generate.models import GenerateRequest
    from rag_generate.trial import try_model as ask

    given = {"llm_api_key_file": key_file, "llm_api_key": None} if key_file else {}
    settings = generate_settings().model_copy(
        update={"llm_base_url": url, "llm_model": model, **given}
    )
    results = [
        {"chunk_id": name, "document_id": name, "title": title, "source": name, "text": text,
         "span": [0, len(text)], "score": 1.0, "scores": {"dense": 0.9}}
        for name, title, text in SAMPLE
    ]  # fmt: skip
    with errors_of("augment"), open_augment() as augment:
        request = AugmentRequest.model_validate({"query": QUESTION, "results": results})
        prompt = augment.run(request).model_dump()
    with errors_of("generate"):
        return asdict(ask(GenerateRequest.model_validate(prompt), 1, settings))


def _missing(error: ModuleNotFoundError) -> StepError:
    packages = [stage.package.replace("_", "-") for stage in PIPELINE]
    return StepError(
        "misconfigured",
        f"a local step needs the package {error.name}, which is not installed; install "
        f"{listing(packages)} here, or set "
        f"{listing([stage.url_variable for stage in PIPELINE])} to use running ones",
    )
