"""The prompt's wording: a Jinja2 template with two blocks, rendered in a sandbox.

The template comes from the package or from the operator's settings, never from a request. What a
request brings is only ever inserted as a value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rag_kit.errors import StepError

BLOCKS = ("system", "user")


class Template:
    """A compiled template; safe to share between threads.

    Attributes:
        loads: How many templates this process has compiled.
    """

    loads = 0

    def __init__(self, source: str) -> None:
        """Compile `source`.

        Raises:
            StepError: `misconfigured`, a syntax error or a missing block.
        """
        environment = ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined,
            autoescape=False,  # plain text, not HTML
            keep_trailing_newline=False,
        )
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise StepError(
                "misconfigured", f"RAG_TEMPLATE, line {error.lineno}: {error.message}"
            ) from None
        missing = [name for name in BLOCKS if name not in self._template.blocks]
        if missing:
            raise StepError(
                "misconfigured",
                f"RAG_TEMPLATE has no block {missing[0]!r}; it needs "
                "{% block system %}…{% endblock %} and {% block user %}…{% endblock %}",
            )
        self.digest = f"sha256:{hashlib.sha256(source.encode()).hexdigest()}"
        Template.loads += 1

    def render(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the text of each block.

        Raises:
            StepError: `misconfigured`, the template uses something forbidden or undefined.
        """
        context = self._template.new_context(dict(values))
        try:
            return {name: "".join(self._template.blocks[name](context)) for name in BLOCKS}
        except Exception as error:  # a template can raise anything; its message may hold a value
            reason = error.message if isinstance(error, jinja2.TemplateError) else None
            raise StepError(
                "misconfigured",
                f"RAG_TEMPLATE cannot be rendered: {reason or type(error).__name__}",
            ) from None


def load_template(path: Path | None = None) -> Template:
    """Compile the template at `path`, or the packaged one; call it once per process.

    Raises:
        StepError: `misconfigured`: not readable, not UTF-8, a syntax error or a missing block.
    """
    if path is None:
        return Template(files(__package__).joinpath("template.jinja").read_text("utf-8"))
    try:
        return Template(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StepError(
            "misconfigured",
            f"RAG_TEMPLATE={path} cannot be read: {error}; point it to a UTF-8 Jinja2 file",
        ) from None
