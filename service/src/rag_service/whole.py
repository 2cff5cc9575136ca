"""A whole answer as the events of a stream, for what cannot give it piece by piece."""

from __future__ import annotations

from rag_pipeline.models import RagResponse, Result, SearchResponse
from rag_pipeline.shapes import Event, message
from rag_pipeline.step import closing_events


def whole_as_events(response: str) -> list[Event]:
    """Return a `RagResponse` as `search_results`, one `message`, `citation`… and `final_answer`."""
    whole = RagResponse.model_validate_json(response)
    found = SearchResponse(
        id=whole.id,
        query=whole.query,
        collection=whole.collection,
        results=[Result.model_validate(each.model_dump()) for each in whole.contexts],
        timings_ms=whole.timings_ms,
        warnings=whole.warnings,
        provenance=whole.provenance,
    )
    text = [message(whole.answer, id=whole.id)] if whole.answer else []
    first = Event("search_results", found.model_dump_json())
    return [first, *text, *closing_events(whole)]
