"""The pipeline that Hayhooks serves in bench/http_service.py: Haystack's retrieval, our embedder and answers.

Its documents are the passages of our index, with the vectors of our index, from $BENCH_PASSAGES.
"""

import json
import os
from pathlib import Path

from hayhooks import BasePipelineWrapper
from haystack import Document, Pipeline, component
from haystack.components.builders import PromptBuilder
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import (
    InMemoryBM25Retriever,
    InMemoryEmbeddingRetriever,
)
from haystack.document_stores.in_memory import InMemoryDocumentStore

CANDIDATES = int(os.environ["BENCH_CANDIDATES"])  # of each leg
TOP_K = 5
PROMPT = """Answer from the passages alone, and cite them by number.
{% for document in documents %}
[{{ loop.index }}] {{ document.meta.title }}
{{ document.content }}
{% endfor %}
Question: {{ query }}"""


@component
class Embedder:
    """The packaged MiniLM."""

    def __init__(self) -> None:
        from rag_retrieve import RetrieveSettings
        from rag_retrieve.index.embedders import open_embedder

        self._model = open_embedder(RetrieveSettings())

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict:
        return {"embedding": self._model.embed_query(text).tolist()}


@component
class Answerer:
    """The extractive generator with its verified citations."""

    def __init__(self) -> None:
        from rag_generate.extractive import Extractive
        from rag_generate.settings import Settings

        settings = Settings()
        self._parts = {
            "generators": {"extractive": Extractive(min_support=settings.min_support)},
            "default": "extractive",
            "no_context_text": settings.no_context_text,
        }

    @component.output_types(answer=dict)
    def run(self, query: str, prompt: str, documents: list[Document]) -> dict:
        from rag_generate.models import GenerateRequest
        from rag_generate.step import generate
        from rag_kit.passages import Context, Message

        contexts = [
            Context(
                marker=marker,
                chunk_id=document.id,
                text=document.content or "",
                score=document.score or 0.0,
                **document.meta,
            )
            for marker, document in enumerate(documents, 1)
        ]
        request = GenerateRequest(
            query=query, contexts=contexts, prompt=[Message(role="user", content=prompt)]
        )
        answer = generate(request, **self._parts)
        return {
            "answer": {**answer.model_dump(), "contexts": [one.model_dump() for one in contexts]}
        }


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        store = InMemoryDocumentStore(
            embedding_similarity_function="dot_product",
            return_embedding=False,  # nobody reads them, and Haystack would copy them at each step
        )
        passages = json.loads(Path(os.environ["BENCH_PASSAGES"]).read_text(encoding="utf-8"))
        store.write_documents([Document(**passage) for passage in passages])
        pipeline = Pipeline()
        pipeline.add_component("embedder", Embedder())
        pipeline.add_component("dense", InMemoryEmbeddingRetriever(store, top_k=CANDIDATES))
        pipeline.add_component("sparse", InMemoryBM25Retriever(store, top_k=CANDIDATES))
        pipeline.add_component(
            "join", DocumentJoiner("distribution_based_rank_fusion", top_k=TOP_K)
        )
        pipeline.add_component("prompt", PromptBuilder(PROMPT, required_variables="*"))
        pipeline.add_component("answer", Answerer())
        pipeline.connect("embedder.embedding", "dense.query_embedding")
        pipeline.connect("dense", "join")
        pipeline.connect("sparse", "join")
        pipeline.connect("join", "prompt.documents")
        pipeline.connect("join", "answer.documents")
        pipeline.connect("prompt", "answer.prompt")
        self.pipeline = pipeline

    def run_api(self, query: str) -> dict:
        """Answer a question."""
        asked = {"text": query}
        result = self.pipeline.run(
            {
                "embedder": asked,
                "sparse": {"query": query},
                "prompt": {"query": query},
                "answer": {"query": query},
            }
        )
        return result["answer"]["answer"]
