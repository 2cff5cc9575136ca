"""`rag models`: try a language model before it is configured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from . import output as screen
from .options import AsJson, failures

REASONING = {
    "none": "none",
    "field": "in a field of its own, which is not read",
    "tags": "between tags in its text, which are left out",
    "unopened": "at the beginning of its text, up to a closing tag; it is left out",
}

models = typer.Typer(name="models", help="Try a language model.", no_args_is_help=True)


@models.callback()
def group() -> None:
    """Try a language model."""


@models.command(
    "try",
    epilog="Example: [bold]rag models try http://127.0.0.1:8080/v1[/bold]",
)
def try_command(
    url: Annotated[str, typer.Argument(metavar="URL", help="OpenAI-compatible server, up to /v1.")],
    model: Annotated[
        str | None,
        typer.Option("--model", help="Name of the model; needed when there are several."),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="File with its key; else RAG_LLM_API_KEY.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model a sample question: how fast it is, whether it cites, which settings fit."""
    from ..steps.local import try_model

    with failures(as_json):
        with screen.loading(f"asking {url}; a model on a processor may take minutes …"):
            trial = try_model(url, model, key_file)
        if as_json:
            screen.write_json(json.dumps(trial, ensure_ascii=False, separators=(",", ":")))
        else:
            write_trial(trial)
        if not trial["cites"]:
            raise typer.Exit(1)


def write_trial(trial: dict[str, Any]) -> None:
    """Print what came of a trial, and the settings as a shell takes them."""
    speed = trial["tokens_per_s"]
    rows = [
        ("model", trial["model"]),
        (
            "first token",
            f"{trial['first_token_s']:.2f} s, for a prompt of {trial['prompt_tokens']} tokens",
        ),
        ("speed", "not counted by the server" if speed is None else f"{speed:.1f} tokens a second"),
        ("whole answer", f"{trial['seconds']:.2f} s, {trial['answer_tokens']} tokens"),
        ("reasoning", REASONING[trial["reasoning"]]),
        ("question", trial["question"]),
        ("answer", trial["answer"] or "(nothing)"),
        (
            "citations",
            "right" if trial["cites"] else "none that is right; its answers would be withheld",
        ),
    ]
    screen.write_table(["", ""], rows)
    console = screen.out()
    console.print("\nSettings that fit:")
    for name, value in trial["settings"].items():
        console.print(f"export {name}={value}", soft_wrap=True)
