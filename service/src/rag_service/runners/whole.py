"""A whole answer: whether it is one to the request, and as the events of a stream."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from rag_kit.errors import StepError
from rag_kit.handler import Event, message
from rag_kit.passages import Result
from rag_kit.request import explain
from rag_pipeline.models import RagResponse, SearchResponse
from rag_pipeline.step import closing_events, read_reply

Whole = RagResponse | SearchResponse


def check_whole(shape: type[Whole], request: str, reply: Any) -> str:
    """Return what a pipeline elsewhere gave for a request; more fields than ours are welcome.

    Raises:
        StepError: The pipeline's own; `module_bad_output` when it is no such response, or one to
            another request.
    """
    if not isinstance(reply, str):
        raise StepError("module_bad_output", "the module gave no text in place of a response")
    data = read_reply("rag", reply)
    try:
        shape.model_validate({name: data[name] for name in shape.model_fields if name in data})
    except ValidationError as error:
        fault = explain(error)
        text = f"the pipeline's response is off contract: {fault.message}"
        raise StepError("module_bad_output", text, param=fault.param) from None
    asked = json.loads(request).get("request_id")  # as lenient as it was sent
    if asked is not None and data["id"] != asked:
        text = "the pipeline gave the response to another request; it was dropped"
        raise StepError("module_bad_output", text, param="id")
    return reply


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
