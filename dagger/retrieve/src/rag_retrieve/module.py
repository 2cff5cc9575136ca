"""`retrieve` as a Dagger module: it translates, the step's own code works in the step's container."""

from __future__ import annotations

import enum
import json
from typing import Annotated

import dagger
from dagger import Doc, Name, check, dag, enum_type, function, object_type

from rag_kit import container as image
from rag_kit.formats import listed

PACKAGE = "rag_retrieve"
STEP = "retrieve"  # its folder, too
SUPERLINKED = "retrieve/superlinked"
REPORT = "ingest-report.json"


@enum_type
class Ranking(enum.Enum):
    """Who ranks the passages."""

    builtin = "builtin"
    """Dense and BM25, fused; needs nothing else."""

    superlinked = "superlinked"
    """Text, recency and category, weighed per question."""


@object_type
class Retrieve:
    """Ingest documents and find passages for a question: dense, BM25 or both, on Qdrant.

    JSON in, JSON out. `dagger call index --docs ./docs export --path ./store` builds an index,
    `dagger call --store ./store run --input-json '{"query": "…"}'` searches it.
    """

    store: Annotated[
        dagger.Directory | None,
        Doc(
            "An index made by the function index: searched by the embedded store. Not with Qdrant."
        ),
    ] = None
    qdrant_url: Annotated[
        str, Doc("URL of a Qdrant server, e.g. https://qdrant.example.com:6333.")
    ] = ""
    qdrant: image.Qdrant = None
    qdrant_api_key: image.QdrantApiKey = None
    retriever: Annotated[
        Ranking,
        Doc("Who ranks: builtin, or superlinked (weights per question; its own container)."),
    ] = Ranking.builtin
    ocr: Annotated[
        bool,
        Doc("Read scanned pages and images too: recognise their text, offline; a larger image."),
    ] = False
    bulk: Annotated[
        bool,
        Doc("Have Ray and Parquet in the image, to ingest by several pods; a larger image."),
    ] = False

    @function(cache=image.FRESH)
    async def run(
        self,
        input_json: Annotated[
            str, Doc('The request, e.g. {"query": "Who may sign?", "top_k": 3}; see contract/.')
        ] = "",
        input: Annotated[  # noqa: A002, the name of the option
            dagger.File | None, Name("input"), Doc("The request as a file, instead.")
        ] = None,
        strict: image.Strict = False,
    ) -> str:
        """Find passages for one request; returns the response, or an error envelope, as JSON."""
        container = self.container()
        if self.qdrant_url or self.qdrant or self.retriever == Ranking.superlinked:
            container = image.fresh(container)
        return await image.ask("retrieve", container, input_json, input, strict)

    @function(cache=image.PURE)
    async def index(
        self,
        docs: Annotated[dagger.Directory, Doc(f"Folder with {listed()} files.")],
        collection: Annotated[str, Doc("Name of the collection to make.")] = "default",
        name: Annotated[
            str, Doc("Name of the folder in document ids: docs gives docs/report.pdf.")
        ] = "docs",
    ) -> dagger.Directory:
        """Build the embedded store of a folder: the same documents give the stored result at once.

        Only texts never embedded before are embedded. Documents that cannot be read are left out
        and named in ingest-report.json, which stands beside the collection.
        """
        if fault := _fault_of(name):
            raise ValueError(f"invalid_request: {fault}")
        cache = dag.cache_volume("rag-embeddings")
        ran = self._image().with_mounted_cache("/cache", cache, owner=image.USER)
        ran = self._ingest(
            ran.with_env_variable("RAG_EMBEDDING_CACHE", "/cache"), docs, collection, name
        )
        store = ran.directory(image.HOME)
        report = await image.read("retrieve", store.file(REPORT))
        if error := json.loads(report).get("error"):
            raise ValueError(f"{error['code']}: {error['message']}")
        return store

    @function(cache=image.FRESH)
    async def ingest(
        self,
        docs: Annotated[dagger.Directory, Doc(f"Folder with {listed()} files.")],
        collection: Annotated[str, Doc("Collection to bring them into.")] = "default",
        name: Annotated[str, Doc("Name of the folder in document ids.")] = "docs",
        prune: Annotated[bool, Doc("Delete documents whose file is gone from the folder.")] = False,
        strict: image.Strict = False,
    ) -> str:
        """Bring a folder into a collection on the Qdrant server; returns the report, or an error envelope.

        Unchanged documents compute no embedding.
        """
        if not (self.qdrant_url or self.qdrant):
            refused = image.envelope_of(
                "retrieve",
                "retriever_misconfigured",
                "no Qdrant server is given; set --qdrant-url or --qdrant, or use index",
            )
            return image.checked(refused, strict)
        if fault := _fault_of(name):
            return image.checked(image.envelope_of("retrieve", "invalid_request", fault), strict)
        ran = self._ingest(image.fresh(self.container()), docs, collection, name, prune=prune)
        return image.checked(
            await image.read("retrieve", ran.file(f"{image.HOME}/{REPORT}")), strict
        )

    @function(cache=image.PURE)
    def container(self) -> dagger.Container:
        """The step's slim image, with the store and servers given; not root, without build tools and SDK."""
        container = self._image()
        if self.qdrant_url or self.qdrant is not None:
            container = self._over_qdrant(container.with_env_variable("RAG_STORE", "qdrant"))
        elif self.store is not None:
            container = container.with_mounted_directory(image.HOME, self.store, owner=image.USER)
        if self.retriever == Ranking.superlinked:
            container = (
                container.with_service_binding("superlinked", self.superlinked())
                .with_env_variable("RAG_RETRIEVER", "superlinked")
                .with_env_variable("RAG_SUPERLINKED_URL", f"http://superlinked:{image.PORT}")
            )
        return container

    @function(cache="session")
    def serve(self) -> dagger.Service:
        """Keep the step resident: POST /run, GET /healthz, GET /readyz on port 8080."""
        return image.resident(self.container())

    @function(cache=image.PURE)
    def superlinked_container(self) -> dagger.Container:
        """The image of the Superlinked retriever, a project of its own: its dependencies fit no other."""
        return image.build("rag_superlinked", image.sources(STEP), folder=SUPERLINKED)

    @function(cache="session")
    def superlinked(self) -> dagger.Service:
        """Keep the Superlinked retriever resident, on the Qdrant server given or in memory."""
        return image.resident(self._over_qdrant(self.superlinked_container()))

    @function(cache=image.FRESH)
    async def publish(
        self,
        address: Annotated[
            str, Doc("Repository without a tag, e.g. registry.example.com/team/rag-retrieve.")
        ],
        tag: image.Tag = "latest",
        username: image.Username = "",
        password: image.Password = None,
    ) -> str:
        """Push the step's image; returns its reference by digest."""
        return await image.push(self._image(), address, tag, username, password)

    @function(cache=image.FRESH)
    async def publish_superlinked(
        self,
        address: Annotated[
            str, Doc("Repository without a tag, e.g. registry.example.com/team/rag-superlinked.")
        ],
        tag: image.Tag = "latest",
        username: image.Username = "",
        password: image.Password = None,
    ) -> str:
        """Push the image of the Superlinked retriever; returns its reference by digest."""
        return await image.push(self.superlinked_container(), address, tag, username, password)

    @function(cache=image.FRESH)
    @check
    async def check(self) -> str:
        """Run the step's own tests in its container; returns pytest's summary."""
        return await image.run_tests(PACKAGE, image.sources(STEP), folder=STEP)

    def _ingest(
        self,
        container: dagger.Container,
        docs: dagger.Directory,
        collection: str,
        name: str,
        *,
        prune: bool = False,
    ) -> dagger.Container:
        options = ["--collection", collection, "--report", f"{image.HOME}/{REPORT}"]
        folder = f"/documents/{name}"
        return container.with_mounted_directory(folder, docs, owner=image.USER).with_exec(
            ["index", folder, *options, *(["--prune"] if prune else [])],
            use_entrypoint=True,
            expect=dagger.ReturnType.ANY,  # a document that cannot be read is in the report
        )

    def _image(self) -> dagger.Container:
        extras = [*(["ocr"] if self.ocr else []), *(["bulk", "parquet"] if self.bulk else [])]
        return image.build(PACKAGE, image.sources(STEP), folder=STEP, extras=extras)

    def _over_qdrant(self, container: dagger.Container) -> dagger.Container:
        """Tell a container where the Qdrant server is, if there is one."""
        url = self.qdrant_url
        if self.qdrant is not None:
            container = container.with_service_binding("qdrant", self.qdrant)
            url = url or "http://qdrant:6333"
        if url:
            container = container.with_env_variable("RAG_QDRANT_URL", url)
        if self.qdrant_api_key is not None:
            container = container.with_secret_variable("RAG_QDRANT_API_KEY", self.qdrant_api_key)
        return container


def _fault_of(name: str) -> str | None:
    """Return why a folder cannot have this name in document ids, or None."""
    if name.strip(".") and "/" not in name and name.isprintable():
        return None
    return f"name: {name!r} cannot be the name of a folder; give one without a path, e.g. handbook"
