"""`rag` as a Dagger module: the pipeline over the modules it depends on.

The steps run in their own containers; this process starts them and passes a question through.
`Retriever`, `Reranker`, `Augmenter` and `Generator` are the interfaces of a step from another module.
"""

from __future__ import annotations

import enum
import json
import typing
from typing import Annotated, Any

import dagger
from dagger import DefaultPath, Doc, Ignore, check, enum_type, function, interface, object_type

from rag_kit import container as image

PACKAGE = "rag_pipeline"
FOLDER = "rag"
SERVICE_PORT = 8000
KIT = "dagger/kit"
BESIDE = [f"dagger/{each}" for each in ("retrieve", "rerank", "augment", "generate", FOLDER)]
SERVICE_SOURCE = [
    "**",
    *(
        f"!{project}/{name}"
        for project in ("service", KIT, *BESIDE)
        for name in (*image.PROJECT_FILES, "src")
    ),
    "**/__pycache__",
]
# What belongs to the dependencies is generated where the module is loaded.
bindings: Any = dagger
dag: Any = dagger.dag


@enum_type
class Ranking(enum.Enum):
    """Who ranks the passages."""

    builtin = "builtin"
    """Dense and BM25, fused; needs nothing else."""

    superlinked = "superlinked"
    """Text, recency and category, weighed per question."""


@interface
class Retriever(typing.Protocol):
    """A step that finds passages; any module whose object has this function fits."""

    @function
    async def run(self, input_json: str) -> str:
        """Take a retrieve request as JSON, give a retrieve response as JSON."""
        ...


@interface
class Reranker(typing.Protocol):
    """A step that ranks passages again; any module whose object has this function fits."""

    @function
    async def run(self, input_json: str) -> str:
        """Take a rerank request as JSON, give a rerank response as JSON."""
        ...


@interface
class Augmenter(typing.Protocol):
    """A step that builds a prompt; any module whose object has this function fits."""

    @function
    async def run(self, input_json: str) -> str:
        """Take an augment request as JSON, give an augment response as JSON."""
        ...


@interface
class Generator(typing.Protocol):
    """A step that answers; any module whose object has this function fits."""

    @function
    async def run(self, input_json: str) -> str:
        """Take a generate request as JSON, give a generate response as JSON."""
        ...


Query = Annotated[str, Doc('The question, e.g. "Who may sign?".')]
InputJson = Annotated[
    str,
    Doc('More of the request as JSON, e.g. {"messages": […], "retrieve": {"mode": "dense"}}.'),
]
TopK = Annotated[int, Doc("Passages at most; 0: as the request says, else 5.")]
Filters = Annotated[str, Doc('Conditions on metadata as JSON, e.g. {"year": {"$gte": 2024}}.')]
RetrieveWith = Annotated[
    Retriever | None, Doc("Another module's retriever, from code: dag.rag().run(…).")
]
RerankWith = Annotated[
    Reranker | None, Doc("Another module's reranker, from code; it ranks without --rerank.")
]
AugmentWith = Annotated[Augmenter | None, Doc("Another module's augmenter, from code.")]
GenerateWith = Annotated[Generator | None, Doc("Another module's generator, from code.")]
Repository = Annotated[
    dagger.Directory,
    DefaultPath("/"),
    Ignore(SERVICE_SOURCE),
    Doc("The repository with the service and the steps; without it, this one."),
]


@object_type
class Rag:
    """Ask documents: retrieve, augment and generate as one question and one answer with verified citations.

    `dagger call rag run --query "…"` asks this project's own docs;
    `dagger call rag --docs ./my-docs run --query "…"` asks yours. A call starts containers and costs
    seconds; `dagger call rag serve up` keeps all steps resident and answers in milliseconds.
    """

    docs: Annotated[
        dagger.Directory,
        DefaultPath("/docs"),
        Doc("Folder with your documents; without it, this project's own docs."),
    ]
    store: Annotated[
        dagger.Directory | None,
        Doc("An index made before by the function index, instead of documents."),
    ] = None
    docs_name: Annotated[
        str,
        Doc("Its name in document ids, which Dagger does not tell: docs gives docs/report.pdf."),
    ] = "docs"
    collection: Annotated[str, Doc("Name of the collection.")] = "default"
    retriever: Annotated[
        Ranking,
        Doc("Who ranks: builtin, or superlinked (weights per question; its own container)."),
    ] = Ranking.builtin
    qdrant_url: Annotated[
        str,
        Doc(
            "Search a Qdrant server at this URL instead of documents; fill it with the function ingest."
        ),
    ] = ""
    qdrant: image.Qdrant = None
    qdrant_api_key: image.QdrantApiKey = None
    llm_base_url: image.LlmBaseUrl = ""
    llm_model: image.LlmModel = ""
    llm_pace: image.LlmPace = ""
    llm_api_key: image.LlmApiKey = None
    llm: image.Llm = None
    rerank: image.RerankerUrl = ""
    rerank_kind: image.RerankerKind = ""
    rerank_model: image.RerankerModel = ""
    rerank_api_key: image.RerankerApiKey = None
    reranker: image.Reranker = None
    rewriting: Annotated[
        str,
        Doc("Who completes a follow-up question for the search: model, terms or off; none: model."),
    ] = ""

    @function(cache=image.FRESH)
    async def run(
        self,
        query: Query = "",
        top_k: TopK = 0,
        filters: Filters = "",
        input_json: InputJson = "",
        retrieve_with: RetrieveWith = None,
        rerank_with: RerankWith = None,
        augment_with: AugmentWith = None,
        generate_with: GenerateWith = None,
        strict: image.Strict = False,
    ) -> str:
        """Answer a question with verified citations; returns the answer, or an error envelope, as JSON."""
        from .steps.dagger import answer_with

        request = self._request(query, top_k, filters, input_json)
        steps = self._steps(retrieve_with, rerank_with, augment_with, generate_with)
        return image.checked(await answer_with(steps, request, self._settings()), strict)

    @function(cache=image.FRESH)
    async def search(
        self,
        query: Query = "",
        top_k: TopK = 0,
        filters: Filters = "",
        input_json: InputJson = "",
        retrieve_with: RetrieveWith = None,
        rerank_with: RerankWith = None,
        strict: image.Strict = False,
    ) -> str:
        """Find passages for a question, without an answer; returns them, or an error envelope, as JSON."""
        from .steps.dagger import search_with

        request = self._request(query, top_k, filters, input_json)
        steps = self._searching(retrieve_with, rerank_with)
        return image.checked(await search_with(steps, request, self._settings()), strict)

    @function(cache=image.PURE)
    def index(
        self,
        docs: Annotated[
            dagger.Directory | None, Doc("Folder with documents; none: those of the constructor.")
        ] = None,
    ) -> dagger.Directory:
        """Build the embedded store of the documents, to export or to ask; what is unchanged costs nothing."""
        folder: dagger.Directory = dag.retrieve().index(
            docs=docs or self.docs, collection=self.collection, name=self.docs_name
        )
        return folder

    @function(cache=image.FRESH)
    async def ingest(
        self,
        docs: Annotated[
            dagger.Directory | None, Doc("Folder with documents; none: those of the constructor.")
        ] = None,
        prune: Annotated[bool, Doc("Delete documents whose file is gone from the folder.")] = False,
        strict: image.Strict = False,
    ) -> str:
        """Bring documents into the Qdrant server; returns the report, or an error envelope, as JSON."""
        report: str = await self._retrieve_module().ingest(
            docs=docs or self.docs, collection=self.collection, name=self.docs_name, prune=prune
        )
        return image.checked(report, strict)

    @function(cache="session")
    def serve(
        self,
        retrieve: Annotated[
            dagger.Service | None, Doc("Your own resident retriever (POST /run on port 8080).")
        ] = None,
        rerank: Annotated[
            dagger.Service | None, Doc("Your own resident reranker (POST /run on port 8080).")
        ] = None,
        augment: Annotated[
            dagger.Service | None, Doc("Your own resident augmenter (POST /run on port 8080).")
        ] = None,
        generate: Annotated[
            dagger.Service | None, Doc("Your own resident generator (POST /run on port 8080).")
        ] = None,
    ) -> dagger.Service:
        """Keep the pipeline resident, a container for each step: POST /run, POST /search on port 8080."""
        return image.resident(self._pipeline(retrieve, rerank, augment, generate))

    @function(cache=image.FRESH)
    async def eval(
        self,
        dataset: Annotated[
            dagger.File, Doc('One JSON object a line: {"query": "…", "relevant": ["docs/a.md"]}.')
        ],
        top_k: Annotated[int, Doc("Passages at most, and the k of recall@k.")] = 10,
        compare: Annotated[
            str,
            Doc(
                'Ask again with these fields and test the difference, e.g. {"rerank": {"enabled": false}}.'
            ),
        ] = "",
        strict: image.Strict = False,
    ) -> str:
        """Measure answers and retrieval on your own questions; returns metrics with intervals as JSON."""
        ran = (
            image.fresh(self._pipeline())
            .with_mounted_file(image.INPUT, dataset, owner=image.USER)
            .with_exec(
                [
                    *("eval", "--dataset", image.INPUT, "--output", image.OUTPUT),
                    *("--collection", self.collection, "--top-k", str(top_k)),
                    *(("--compare", compare) if compare else ()),
                ],
                use_entrypoint=True,
                expect=dagger.ReturnType.ANY,
            )
        )
        return image.checked(await image.read("rag", ran.file(image.OUTPUT)), strict)

    @function(cache=image.FRESH)
    async def replay(
        self,
        answer: Annotated[dagger.File, Doc("An answer given by run or search, as a file.")],
        retrieve_with: RetrieveWith = None,
        rerank_with: RerankWith = None,
        strict: image.Strict = False,
    ) -> str:
        """Run an answer's retrieval again and say whether it is identical, and if not, what changed."""
        from .steps.dagger import replay_with

        steps = self._searching(retrieve_with, rerank_with)
        return image.checked(await replay_with(steps, await answer.contents()), strict)

    @function(cache=image.FRESH)
    async def conformance(
        self,
        retrieve_with: RetrieveWith = None,
        rerank_with: RerankWith = None,
        augment_with: AugmentWith = None,
        generate_with: GenerateWith = None,
        query: Annotated[str, Doc("A question your retriever finds passages for.")] = "What is it?",
    ) -> str:
        """Check steps of your own against the contract before you use them; returns a report as JSON."""
        from .quality.conformance import check_step
        from .steps.dagger import open_steps

        checked = {
            "retrieve": retrieve_with,
            "rerank": rerank_with,
            "augment": augment_with,
            "generate": generate_with,
        }
        async with open_steps({name: step for name, step in checked.items() if step}) as steps:
            reports = [
                await check_step(name, step, collection=self.collection, query=query)
                for name, step in steps.items()
            ]
        return json.dumps({"steps": [report.model_dump(mode="json") for report in reports]})

    @function(cache=image.PURE)
    def container(self) -> dagger.Container:
        """The pipeline's slim image: it wants RAG_RETRIEVE_URL, RAG_AUGMENT_URL, RAG_GENERATE_URL."""
        return image.build(PACKAGE, image.sources(FOLDER), folder=FOLDER)

    @function(cache=image.PURE)
    def service_container(self, source: Repository) -> dagger.Container:
        """The HTTP service's slim image, rag serve on port 8000: it wants RAG_API_KEYS_FILE."""
        container = image.build(
            "rag_service",
            source,
            folder="service",
            kit=KIT,
            beside=BESIDE,
            extras=("local", "trace"),
        )
        return (
            container.without_exposed_port(image.PORT)
            .with_exposed_port(SERVICE_PORT)
            .with_entrypoint(["rag"])
            .with_default_args(["serve", "--host", "0.0.0.0", "--port", str(SERVICE_PORT)])  # noqa: S104
        )

    @function(cache=image.FRESH)
    async def publish(
        self,
        address: Annotated[
            str, Doc("Repository without a tag, e.g. registry.example.com/team/rag-pipeline.")
        ],
        tag: image.Tag = "latest",
        username: image.Username = "",
        password: image.Password = None,
    ) -> str:
        """Push the pipeline's image; returns its reference by digest."""
        return await image.push(self.container(), address, tag, username, password)

    @function(cache=image.FRESH)
    async def publish_service(
        self,
        source: Repository,
        address: Annotated[
            str, Doc("Repository without a tag, e.g. registry.example.com/team/rag-service.")
        ],
        tag: image.Tag = "latest",
        username: image.Username = "",
        password: image.Password = None,
    ) -> str:
        """Push the HTTP service's image; returns its reference by digest."""
        return await image.push(self.service_container(source), address, tag, username, password)

    @function(cache=image.FRESH)
    @check
    async def check(self) -> str:
        """Run the pipeline's own tests in its container; returns pytest's summary."""
        return await image.run_tests(PACKAGE, image.sources(FOLDER), folder=FOLDER)

    def _request(self, query: str, top_k: int, filters: str, input_json: str) -> str:
        from .steps.dagger import request_of

        overrides: dict[str, Any] = {"query": query} if query else {}
        overrides |= {"top_k": top_k} if top_k else {}
        if filters:
            overrides["filters"] = _json_or_text(filters)
        return request_of(input_json, defaults={"collection": self.collection}, overrides=overrides)

    def _settings(self) -> dict[str, str]:
        """Return the pipeline's own settings that are given."""
        given = {"llm_pace": self.llm_pace, "rewriting": self.rewriting}
        return {name: value for name, value in given.items() if value}

    def _steps(self, retrieve: Any, rerank: Any, augment: Any, generate: Any) -> dict[str, Any]:
        """Return what runs each step: the argument, else our own service."""
        return {
            **self._searching(retrieve, rerank),
            "augment": augment or image.resident(dag.augment().container()),
            "generate": generate or image.resident(self._generate()),
        }

    def _searching(self, retrieve: Any, rerank: Any) -> dict[str, Any]:
        """Return what runs each step of a search; there is a reranker where one is given."""
        steps = {"retrieve": retrieve or image.resident(self._retrieve())}
        if rerank or self.rerank:
            steps["rerank"] = rerank or image.resident(self._rerank())
        return steps

    def _remote_store(self) -> bool:
        return bool(self.qdrant_url) or self.qdrant is not None

    def _retrieve_module(self, **more: Any) -> Any:
        return dag.retrieve(
            qdrant_url=self.qdrant_url,
            qdrant=self.qdrant,
            qdrant_api_key=self.qdrant_api_key,
            **more,
        )

    def _retrieve(self) -> dagger.Container:
        store = None if self._remote_store() else self.store or self.index()
        more: dict[str, Any] = {"store": store} if store else {}
        if self.retriever == Ranking.superlinked:
            more["retriever"] = bindings.RetrieveRanking.SUPERLINKED  # the engine's spelling
        container: dagger.Container = self._retrieve_module(**more).container()
        return container

    def _rerank(self) -> dagger.Container:
        container: dagger.Container = dag.rerank(
            url=self.rerank,
            kind=self.rerank_kind,
            model=self.rerank_model,
            api_key=self.rerank_api_key,
            server=self.reranker,
        ).container()
        return container

    def _generate(self) -> dagger.Container:
        container: dagger.Container = dag.generate(
            llm_base_url=self.llm_base_url,
            llm_model=self.llm_model,
            llm_pace=self.llm_pace,
            llm_api_key=self.llm_api_key,
            llm=self.llm,
        ).container()
        return container

    def _pipeline(
        self,
        retrieve: dagger.Service | None = None,
        rerank: dagger.Service | None = None,
        augment: dagger.Service | None = None,
        generate: dagger.Service | None = None,
    ) -> dagger.Container:
        pipeline: dagger.Container = self.container()
        for name, value in self._settings().items():
            pipeline = pipeline.with_env_variable(f"RAG_{name.upper()}", value)
        for step, service in self._steps(retrieve, rerank, augment, generate).items():
            pipeline = pipeline.with_service_binding(step, service)
            pipeline = pipeline.with_env_variable(
                f"RAG_{step.upper()}_URL", f"http://{step}:{image.PORT}"
            )
        return pipeline


def _json_or_text(text: str) -> Any:
    """Return parsed JSON, and anything else as text, for the handler to refuse."""
    try:
        return json.loads(text)
    except ValueError:
        return text
