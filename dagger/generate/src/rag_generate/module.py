"""`generate` as a Dagger module: it translates, the step's own code works in the step's container."""

from __future__ import annotations

from typing import Annotated

import dagger
from dagger import Doc, Name, check, function, object_type

from rag_kit import container as image

PACKAGE = "rag_generate"
STEP = "generate"  # its folder, too


@object_type
class Generate:
    """Answer a prompt over numbered passages with verified citations: extractive, or any OpenAI-like model.

    JSON in, JSON out: the response of `augment` is its request.
    `dagger call run --input augmented.json`
    """

    llm_base_url: image.LlmBaseUrl = ""
    llm_model: image.LlmModel = ""
    llm_pace: image.LlmPace = ""
    llm_api_key: image.LlmApiKey = None
    llm: image.Llm = None

    @function(cache=image.FRESH)
    async def run(
        self,
        input_json: Annotated[
            str, Doc('The request, e.g. {"query": "…", "contexts": […], "prompt": […]}.')
        ] = "",
        input: Annotated[  # noqa: A002, the name of the option
            dagger.File | None, Name("input"), Doc("The request as a file, instead.")
        ] = None,
        strict: image.Strict = False,
    ) -> str:
        """Answer one request; returns the response, or an error envelope, as JSON."""
        container = self.container()
        if self.llm_base_url:
            container = image.fresh(container)
        return await image.ask(STEP, container, input_json, input, strict)

    @function(cache=image.PURE)
    def container(self) -> dagger.Container:
        """The step's slim image, with the model given; not root, without build tools and SDK."""
        container = self._image()
        if self.llm is not None:
            container = container.with_service_binding("llm", self.llm)
        if self.llm_base_url:
            container = container.with_env_variable("RAG_LLM_BASE_URL", self.llm_base_url)
        if self.llm_model:
            container = container.with_env_variable("RAG_LLM_MODEL", self.llm_model)
        if self.llm_pace:
            container = container.with_env_variable("RAG_LLM_PACE", self.llm_pace)
        if self.llm_api_key is not None:
            container = container.with_secret_variable("RAG_LLM_API_KEY", self.llm_api_key)
        return container

    @function(cache="session")
    def serve(self) -> dagger.Service:
        """Keep the step resident: POST /run, GET /healthz, GET /readyz on port 8080."""
        return image.resident(self.container())

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
        return await image.push(self._image(), address, tag, username, password)

    @function(cache=image.FRESH)
    @check
    async def check(self) -> str:
        """Run the step's own tests in its container; returns pytest's summary."""
        return await image.run_tests(PACKAGE, image.sources(STEP), folder=STEP)

    def _image(self) -> dagger.Container:
        return image.build(PACKAGE, image.sources(STEP), folder=STEP)
