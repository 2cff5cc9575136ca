"""One function for each function of `generate`, named as the Daggerverse wants it."""

from __future__ import annotations

from typing import Any

import dagger
from dagger import function, object_type

dag: Any = dagger.dag


@object_type
class Examples:
    """How to call `generate`."""

    @function(cache="never")
    async def generate_run(self, augmented: dagger.File) -> str:
        """Answer with the sentences of the passages: no model, the same answer every time."""
        response: str = await dag.generate().run(input=augmented)
        return response

    @function(cache="never")
    async def generate_run__model(
        self, augmented: dagger.File, base_url: str, model: str, key: dagger.Secret
    ) -> str:
        """Answer with an OpenAI-compatible model; its citations are checked the same way."""
        step = dag.generate(llm_base_url=base_url, llm_model=model, llm_api_key=key)
        response: str = await step.run(input=augmented)
        return response

    @function(cache="session")
    def generate_serve(self) -> dagger.Service:
        """Keep the step resident."""
        service: dagger.Service = dag.generate().serve()
        return service
