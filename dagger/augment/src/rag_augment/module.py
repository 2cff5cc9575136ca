"""`augment` as a Dagger module: it translates, the step's own code works in the step's container."""

from __future__ import annotations

from typing import Annotated

import dagger
from dagger import Doc, Name, check, function, object_type

from rag_kit import container as image

PACKAGE = "rag_augment"
STEP = "augment"  # its folder, too


@object_type
class Augment:
    """Build a prompt from passages: near-duplicates removed, a token budget, numbered, marked as untrusted.

    JSON in, JSON out: the response of `retrieve` is its request.
    `dagger call run --input retrieved.json`
    """

    @function(cache=image.PURE)
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
        """Build the prompt of one request; returns the response, or an error envelope, as JSON."""
        return await image.ask(STEP, self.container(), input_json, input, strict)

    @function(cache=image.PURE)
    def container(self) -> dagger.Container:
        """The step's slim image; not root, without build tools and SDK."""
        return image.build(PACKAGE, image.sources(STEP), folder=STEP)

    @function(cache="session")
    def serve(self) -> dagger.Service:
        """Keep the step resident: POST /run, GET /healthz, GET /readyz on port 8080."""
        return image.resident(self.container())

    @function(cache=image.FRESH)
    async def publish(
        self,
        address: Annotated[
            str, Doc("Repository without a tag, e.g. registry.example.com/team/rag-augment.")
        ],
        tag: image.Tag = "latest",
        username: image.Username = "",
        password: image.Password = None,
    ) -> str:
        """Push the step's image; returns its reference by digest."""
        return await image.push(self.container(), address, tag, username, password)

    @function(cache=image.FRESH)
    @check
    async def check(self) -> str:
        """Run the step's own tests in its container; returns pytest's summary."""
        return await image.run_tests(PACKAGE, image.sources(STEP), folder=STEP)
