"""The Dagger module: any module whose object has this `run` can stand in for `retrieve`."""

from __future__ import annotations

from typing import Annotated

from dagger import Doc, function, object_type

from . import search


@object_type
class KeywordRetriever:
    """Find passages in a small catalogue of outdoor gear by their words; no model, no index."""

    @function(cache="168h")  # reads nothing but the request and this module's own source
    def run(
        self,
        input_json: Annotated[str, Doc('The request, e.g. {"query": "How heavy is the tent?"}.')],
    ) -> str:
        """Find passages for one request; returns the response, or an error envelope, as JSON."""
        return search.run(input_json)
