"""Stand-ins for the model libraries that Superlinked imports and this server never uses.

Superlinked imports torch, torchvision, sentence-transformers and open-clip when it is imported,
whatever is done with it. Here vectors come with the chunks, so no model is ever loaded, and the
lock leaves these libraries out. Where one is installed all the same, the real one is used.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

LIBRARIES = ("open_clip", "sentence_transformers", "torch", "torchvision")


class ModelLibraryError(RuntimeError):
    """A model library was used that is left out on purpose."""


class StandIn(ModuleType):
    """A module in which every name is a class that cannot be instantiated."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: object, **__: object) -> None:
            raise ModelLibraryError(f"{self.__name__}.{name} is not installed: send vectors")

        return type(name, (), {"__new__": refuse})


class Finder(MetaPathFinder, Loader):
    """Finds stand-ins for everything in the given libraries."""

    def __init__(self, libraries: Collection[str]) -> None:
        self._libraries = libraries

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a stand-in, or None for every other module."""
        if name.partition(".")[0] not in self._libraries:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the stand-in, a package."""
        module = StandIn(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: there is no code to run."""


def stand_in() -> None:
    """Make imports of missing model libraries return stand-ins."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        missing = [library for library in LIBRARIES if find_spec(library) is None]
        sys.meta_path.append(Finder(missing))
