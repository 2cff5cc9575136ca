"""Loads the Dagger SDK first: pytest would otherwise take the folder `dagger/` for the package."""

from contextlib import suppress

with suppress(ImportError):
    import dagger.mod  # noqa: F401
