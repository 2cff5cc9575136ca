"""What a pipeline elsewhere answered: checked against its request, or written as the events of a stream."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from rag_kit.errors import StepError
from rag_kit.handler import Event, message_event
from rag_kit.passages import Result
from rag_kit.request import explain
from rag_pipeline.models import RagResponse, SearchResponse
from rag_pipeline.outputs import read_reply
from rag_pipeline.step import closing_events

Response = RagResponse | SearchResponse


def check_response(model: type[Response], request: str, response: Any) -> str:
    """Return what a pipeline elsewhere gave for a request; fields beyond the model's are kept.

    Raises:
        StepError: The pipeline's own; `module_bad_output` when it is no such response, or one to
            another request.
    """
    if not isinstance(response, str):
        raise StepError("module_bad_output", "the module gave no text in place of a response")
    data = read_reply("rag", response)
    try:
        model.model_validate({name: data[name] for name in model.model_fields if name in data})
    except ValidationError as error:
        fault = explain(error)
        text = f"the pipeline's response is off contract: {fault.message}"
        raise StepError("module_bad_output", text, param=fault.param) from None
    request_id = json.loads(request).get("request_id")  # as lenient as it was sent
    if request_id is not None and data["id"] != request_id:
        text = "the pipeline gave the response to another request; it was dropped"
        raise StepError("module_bad_output", text, param="id")
    return response


def response_events(response: str) -> list[Event]:
    """Return a `RagResponse` as `search_results`, one `message`, `citation`… and `final_answer`."""
    answer = RagResponse.model_validate_json(response)
    found = SearchResponse(
        id=answer.id,
        query=answer.query,
        collection=answer.collection,
        results=[Result.model_validate(each.model_dump()) for each in answer.contexts],
        degraded=answer.degraded,
        timings_ms=answer.timings_ms,
        warnings=answer.warnings,
        provenance=answer.provenance,
    )
    messages = [message_event(answer.answer, id=answer.id)] if answer.answer else []
    first = Event("search_results", found.model_dump_json())
    return [first, *messages, *closing_events(answer)]
