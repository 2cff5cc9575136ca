"""The local cross-encoder: fastembed and ONNX Runtime on a model made by hand."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastembed", reason="the extra rag-rerank[fastembed] is not installed")

import tiny_cross_encoder as tiny
from rerank_kit import make_request

from rag_kit.errors import StepError
from rag_rerank.cross_encoder import CrossEncoder
from rag_rerank.scores import sigmoid
from rag_rerank.settings import RerankSettings
from rag_rerank.wire import open_step

QUERY = "who may sign"
TEXTS = ["the books", "the board may sign the books of the board", "sign"]
ALONE = [sigmoid(tiny.logit(QUERY, text)) for text in TEXTS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the model's files."""
    return tiny.write(tmp_path)


def score(folder: Path, texts: list[str] = TEXTS, **more: Any) -> list[float]:
    encoder = CrossEncoder(RerankSettings(reranker_path=folder, **more))
    return encoder.score(QUERY, texts).scores


def test_the_scores_are_the_sigmoids_of_the_models_logits(folder: Path) -> None:
    """Question and passage are read together; a pair's score is its own, whatever stands beside it."""
    assert score(folder) == pytest.approx(ALONE, abs=1e-6)
    assert score(folder, TEXTS[::-1]) == pytest.approx(ALONE[::-1], abs=1e-6)


def test_a_batch_is_what_makes_scores_depend_on_neighbours(folder: Path) -> None:
    """Why a pair per run is the default: this model, as int8 ones, gives another score in a batch."""
    together = score(folder, reranker_batch=3)

    assert together[1] == pytest.approx(ALONE[1], abs=1e-6)  # the longest is not padded
    assert abs(together[0] - ALONE[0]) > 0.01


def test_the_subfolder_of_hub_repositories_is_found(folder: Path) -> None:
    """`onnx/model.onnx` is where converted models usually have it."""
    (folder / "onnx").mkdir()
    shutil.move(folder / "model.onnx", folder / "onnx/model.onnx")

    assert score(folder) == pytest.approx(ALONE, abs=1e-6)


def test_the_step_names_model_and_digest(folder: Path) -> None:
    """Provenance has what a replay compares: the file's digest tells a replaced model."""
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    with open_step(RerankSettings(reranker_path=folder)) as handler:
        response = json.loads(handler(json.dumps({**make_request(TEXTS), "query": QUERY})))

    assert response["provenance"]["rerank"] == {
        "version": "0.1.0",
        "reranker": "onnx",
        "model": folder.name,
        "digest": f"sha256:{digest}",
    }
    assert [result["chunk_id"] for result in response["results"]] == ["c3", "c2", "c1"]


def test_the_deadline_is_kept_between_two_runs(folder: Path) -> None:
    """A question never waits for more than the run that is under way."""
    encoder = CrossEncoder(RerankSettings(reranker_path=folder, reranker_timeout_s=1e-9))

    with pytest.raises(StepError, match=r"scored 0 of 3 passages") as caught:
        encoder.score(QUERY, TEXTS)

    assert caught.value.code == "deadline_exceeded"


@pytest.mark.parametrize(
    ("missing", "words"),
    [("model.onnx", "has no model.onnx"), ("tokenizer.json", "fastembed cannot load")],
)
def test_a_folder_without_the_model_is_told(folder: Path, missing: str, words: str) -> None:
    """The message names the folder and the files it needs."""
    (folder / missing).unlink()

    with pytest.raises(StepError, match=words) as caught:
        score(folder)

    assert caught.value.code == "reranker_misconfigured"
    assert str(folder) in caught.value.message


def test_an_unknown_name_of_the_hub_is_told() -> None:
    """It is refused without a download, with the way to a local folder."""
    with pytest.raises(StepError, match=r"cannot load 'nobody/nothing'.*RAG_RERANKER_PATH"):
        CrossEncoder(RerankSettings(reranker="onnx", reranker_model="nobody/nothing"))
