"""`rerank` as a Dagger module: it translates, the step's own code works in the step's container."""

from __future__ import annotations

from typing import Annotated

import dagger
from dagger import Doc, Name, check, function, object_type

from rag_kit import container as image

PACKAGE = "rag_rerank"
STEP = "rerank"  # its folder, too


@object_type
class Rerank:
    """Rank the passages found for a question again, with a reranking server: Cohere, Jina, vLLM, TEI.

    JSON in, JSON out: the response of `retrieve` is its request. Without a server, passages keep their order.
    `dagger call --url http://tei:80 --kind tei run --input retrieved.json`
    """

    url: image.RerankerUrl = ""
    kind: image.RerankerKind = ""
    model: image.RerankerModel = ""
    api_key: image.RerankerApiKey = None
    server: image.Reranker = None

    @function(cache=image.FRESH)
    async def run(
        self,
        input_json: Annotated[
            str, Doc('The request, e.g. {"query": "…", "results": […]}; see contract/.')
        ] = "",
        input: Annotated[  # noqa: A002, the name of the option
            dagger.File | None, Name("input"), Doc("The request as a file, instead.")
        ] = None,
        strict: image.Strict = False,
    ) -> str:
        """Rank the passages of one request; returns the response, or an error envelope, as JSON."""
        container = self.container()
        if self.url:
            container = image.fresh(container)
        return await image.ask(STEP, container, input_json, input, strict)

    @function(cache=image.PURE)
    def container(self) -> dagger.Container:
        """The step's slim image, with the server given; not root, without build tools and SDK."""
        container = self._image()
        if self.server is not None:
            container = container.with_service_binding("reranker", self.server)
        if self.url:
            container = container.with_env_variable("RAG_RERANKER_URL", self.url)
        if self.kind:
            container = container.with_env_variable("RAG_RERANKER", self.kind)
        if self.model:
            container = container.with_env_variable("RAG_RERANKER_MODEL", self.model)
        if self.api_key is not None:
            container = container.with_secret_variable("RAG_RERANKER_API_KEY", self.api_key)
        return container

    @function(cache="session")
    def serve(self) -> dagger.Service:
        """Keep the step resident: POST /run, GET /healthz, GET /readyz on port 8080."""
        return image.resident(self.container())

    @function(cache=image.FRESH)
    async def publish(
        self,
        address: Annotated[
            str, Doc("Repository without a tag, e.g. registry.example.com/team/rag-rerank.")
        ],
        tag: image.Tag = "latest",
        username: image.Username = "",
        password: image.Password = None,
    ) -> str:
        """Push the step's image; returns its reference by digest."""
        return await image.push(self._image(), address, tag, username, password)

    @function(cache=image.FRESH)
    @check
    async def check(self) -> str:
        """Run the step's own tests in its container; returns pytest's summary."""
        return await image.run_tests(PACKAGE, image.sources(STEP), folder=STEP)

    def _image(self) -> dagger.Container:
        return image.build(PACKAGE, image.sources(STEP), folder=STEP)
