"""`generate` as a Dagger module: it translates, the step's own code works in the step's container."""

from __future__ import annotations

from typing import Annotated

import dagger
from dagger import Doc, Name, check, function, object_type

from rag_kit import container as image

PACKAGE = "rag_generate"


@object_type
class Generate:
    """Answer a prompt over numbered passages with verified citations: extractive, or any OpenAI-like model.

    JSON in, JSON out: the response of `augment` is its request.
    `dagger call run --input augmented.json`
    """

    llm_base_url: Annotated[
        str, Doc("OpenAI-compatible server, e.g. http://llm:8000/v1; none: extractive answers.")
    ] = ""
    llm_model: Annotated[str, Doc("Name of the model on that server.")] = ""
    llm_api_key: Annotated[
        dagger.Secret | None, Doc("Its key, where it wants one, e.g. env:OPENAI_API_KEY.")
    ] = None
    llm: Annotated[
        dagger.Service | None,
        Doc("The server as a service, reached as host llm, e.g. tcp://localhost:8000."),
    ] = None

    @function(cache=image.FRESH)
    async def run(
        self,
        input_json: Annotated[
            str, Doc('The request, e.g. {"query": "…", "contexts": […], "prompt": […]}.')
        ] = "",
        input: Annotated[  # noqa: A002, the name of the option
            dagger.File | None, Name("input"), Doc("The request as a file, instead.")
        ] = None,
    ) -> str:
        """Answer one request; returns the response, or an error envelope, as JSON."""
        container = self._container()
        if self.llm_base_url:
            container = image.fresh(container)
        return await image.ask("generate", container, input_json, input)

    @function(cache=image.PURE)
    def container(self) -> dagger.Container:
        """The step's slim image: locked dependencies, not root, no build tools, no Dagger SDK."""
        return image.build(PACKAGE)

    @function(cache="session")
    def serve(self) -> dagger.Service:
        """Keep the step resident: POST /run, GET /healthz, GET /readyz on port 8080."""
        return image.resident(self._container())

    @function(cache=image.FRESH)
    async def publish(
        self,
        address: Annotated[
            str, Doc("Repository without a tag, e.g. registry.example.com/team/rag-generate.")
        ],
        tag: image.Tag = "latest",
        username: image.Username = "",
        password: image.Password = None,
    ) -> str:
        """Push the step's image; returns its reference by digest."""
        return await image.push(image.build(PACKAGE), address, tag, username, password)

    @function(cache=image.FRESH)
    @check
    async def check(self) -> str:
        """Run the step's own tests in its container; returns pytest's summary."""
        return await image.run_tests(PACKAGE)

    def _container(self) -> dagger.Container:
        return image.over_llm(
            image.build(PACKAGE),
            llm_base_url=self.llm_base_url,
            llm_model=self.llm_model,
            llm_api_key=self.llm_api_key,
            llm=self.llm,
        )
