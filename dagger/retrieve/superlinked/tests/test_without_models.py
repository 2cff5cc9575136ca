"""No model library is needed, and none is pretended to work."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distributions

import pytest

from rag_superlinked.without_models import LIBRARIES, ModelLibraryError, StandIn


def test_the_environment_holds_no_model_library() -> None:
    """The lock leaves out torch and what is built on it; the server answers without."""
    installed = {one.metadata["Name"].lower().replace("-", "_") for one in distributions()}

    assert not installed & {"torch", "torchvision", "sentence_transformers", "open_clip_torch"}


def test_superlinked_imports_with_stand_ins_and_keeps_its_own_spaces() -> None:
    """In a fresh process Superlinked itself is real, and the model libraries are stand-ins."""
    code = (
        "import rag_superlinked.sdk as sdk, sys\n"
        "print(sdk.sl.__name__, [type(sys.modules[n]).__name__ for n in ('torch', 'open_clip')])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert run.stdout == "superlinked.framework ['StandIn', 'StandIn']\n"
    assert run.stderr == ""


@pytest.mark.parametrize("library", LIBRARIES)
def test_using_a_stand_in_says_what_to_do(library: str) -> None:
    """A model is never half there: the first use names what is missing."""
    with pytest.raises(ModelLibraryError, match=f"{library}.Model is not installed: send vectors"):
        StandIn(library).Model()
