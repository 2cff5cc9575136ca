"""Multi-signal search over Superlinked, as a resident server. Computes no embeddings."""

from typing import TYPE_CHECKING

from rag_kit.lazy import lazy

if TYPE_CHECKING:
    from rag_kit.errors import StepError

    from .collections import Collections
    from .server import application
    from .settings import SuperlinkedSettings
    from .version import __version__

_HOME = {
    "Collections": ".collections",
    "StepError": "rag_kit.errors",
    "SuperlinkedSettings": ".settings",
    "__version__": ".version",
    "application": ".server",
}

__all__ = ["Collections", "StepError", "SuperlinkedSettings", "__version__", "application"]

if not TYPE_CHECKING:
    __getattr__ = lazy(__name__, _HOME)
