"""Build a prompt over numbered passages: no duplicates, a token budget, untrusted text marked."""

from typing import TYPE_CHECKING

from rag_kit.lazy import lazy

if TYPE_CHECKING:
    from rag_kit.errors import StepError

    from .step import __version__, augment

_HOME = {"StepError": "rag_kit.errors", "__version__": ".step", "augment": ".step"}

__all__ = ["StepError", "__version__", "augment"]

if not TYPE_CHECKING:
    __getattr__ = lazy(__name__, _HOME)
