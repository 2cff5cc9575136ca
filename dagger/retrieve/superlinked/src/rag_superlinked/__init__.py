"""Multi-signal search over Superlinked, as a resident server. Computes no embeddings."""

from importlib import import_module
from typing import TYPE_CHECKING

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

    def __getattr__(name):
        """Load a public name (PEP 562)."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME[name], __name__), name)
