"""The HTML report of the quality benchmark: its tables and five plots in one file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from metrics import Estimate

PUBLISHED = {  # nDCG@10 on SciFact; docs/benchmarks.md
    "all-MiniLM-L6-v2": 0.645,
    "BM25": 0.679,
    "bge-small": 0.713,
    "bge-base": 0.741,
}
COLOURS = {"dense": "#4c78a8", "sparse": "#f58518", "hybrid": "#54a24b", "reranked": "#b279a2"}


@cache
def _pyplot() -> Any:
    """Return matplotlib's plots, without a screen; the figures in numbers do not need them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.5rem 0 2rem}td,th{border:1px solid #ccc;padding:.3rem .7rem}
th{background:#f2f2f2;text-align:left}img{max-width:100%}"""


@dataclass(frozen=True)
class Section:
    """One table."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(
            [f"**{self.title}**", "", *("| " + " | ".join(line) + " |" for line in lines)]
        )

    def html(self) -> str:
        """Return the table as HTML."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows
        )
        return f"<h2>{html.escape(self.title)}</h2><table><tr>{head}</tr>{body}</table>"


@dataclass(frozen=True)
class Sheet:
    """What the plots show.

    Attributes:
        curves: Recall at depth 1, 2, … by set and mode.
        ndcg: nDCG@10 by set and mode.
        supports: The pipeline's support by kind of question.
        recall_by_corpus: Recall of gold characters by mode and corpus.
    """

    curves: dict[str, dict[str, list[float]]]
    ndcg: dict[str, dict[str, Estimate]]
    supports: dict[str, list[float]]
    recall_by_corpus: dict[str, dict[str, Estimate]]


def write_html(path: Path, measured: str, sections: Sequence[Section], sheet: Sheet) -> None:
    """Write the report as one file that needs no other."""
    plots = "".join(
        f"<h2>{html.escape(title)}</h2>{_image(figure)}" for title, figure in _plots(sheet)
    )
    tables = "".join(section.html() for section in sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Quality</title>'
        f"<style>{STYLE}</style><h1>Quality</h1><p>{html.escape(measured)}</p>{tables}{plots}",
        encoding="utf-8",
    )


def _image(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    _pyplot().close(figure)
    return (
        f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    )


def _plots(sheet: Sheet) -> list[tuple[str, Any]]:
    return [
        ("nDCG@10 with 95 % intervals", _bars(sheet.ndcg)),
        ("Recall by depth", _curves(sheet.curves)),
        ("Passages: recall of gold characters by corpus", _corpora(sheet.recall_by_corpus)),
        ("Support by kind of question", _supports(sheet.supports)),
        ("Abstention at every threshold", _trade_off(sheet.supports)),
    ]


def _bars(ndcg: dict[str, dict[str, Estimate]]) -> Any:
    figure, axes = _pyplot().subplots(1, len(ndcg), figsize=(5 * len(ndcg), 3.6), squeeze=False)
    figure.subplots_adjust(wspace=0.5)  # the published figures stand between the plots
    for axis, (name, modes) in zip(axes[0], ndcg.items(), strict=True):
        _with_intervals(axis, list(range(len(modes))), list(modes.values()), list(modes))
        axis.set_xticks(range(len(modes)), list(modes))
        axis.set(title=name, ylim=(min(value.low for value in modes.values()) - 0.05, 1.0))
        if name == "scifact":
            for label, value in PUBLISHED.items():
                axis.axhline(value, color="grey", lw=0.8, ls=":")
                axis.text(2.5, value, f" {label} {value}", fontsize=7, va="center")
            axis.set(ylim=(0.55, 0.85))
    return figure


def _with_intervals(
    axis: Any, places: Sequence[float], values: Sequence[Estimate], modes: Sequence[str],
    width: float = 0.7,
) -> None:  # fmt: skip
    means = [value.mean for value in values]
    ends = [
        [value.mean - value.low for value in values],
        [value.high - value.mean for value in values],
    ]
    colours = [COLOURS[mode] for mode in modes]
    axis.bar(places, means, width, yerr=ends, color=colours, capsize=3)


def _curves(curves: dict[str, dict[str, list[float]]]) -> Any:
    figure, axes = _pyplot().subplots(
        1, len(curves), figsize=(4.5 * len(curves), 3.6), squeeze=False
    )
    for axis, (name, modes) in zip(axes[0], curves.items(), strict=True):
        for mode, values in modes.items():
            axis.plot(range(1, len(values) + 1), values, color=COLOURS[mode], label=mode)
        axis.set(title=name, xscale="log", xlabel="documents looked at", ylabel="recall")
        axis.legend()
    return figure


def _corpora(found: dict[str, dict[str, Estimate]]) -> Any:
    figure, axis = _pyplot().subplots(figsize=(9, 3.6))
    for number, (mode, corpora) in enumerate(found.items()):
        places = [place + (number - 1) * 0.27 for place in range(len(corpora))]
        _with_intervals(axis, places, list(corpora.values()), [mode] * len(corpora), 0.25)
        axis.set_xticks(range(len(corpora)), list(corpora))
    axis.set(ylabel="recall", ylim=(0, 1.05))
    axis.legend(list(found), loc="lower right")
    for handle, mode in zip(axis.get_legend().legend_handles, found, strict=True):
        handle.set_color(COLOURS[mode])
    return figure


def _supports(supports: dict[str, list[float]]) -> Any:
    figure, axis = _pyplot().subplots(figsize=(9, 3.2))
    axis.hist(list(supports.values()), bins=[step / 20 for step in range(21)], label=list(supports))
    axis.set(xlabel="support", ylabel="questions")
    axis.legend()
    return figure


def _trade_off(supports: dict[str, list[float]]) -> Any:
    figure, axis = _pyplot().subplots(figsize=(4.6, 4.2))
    thresholds = [step / 200 for step in range(201)]

    def answered(kind: str) -> list[float]:
        values = supports[kind]
        return [sum(value >= least for value in values) / len(values) for least in thresholds]

    for kind in ("unanswerable", "document removed"):
        axis.plot(answered(kind), answered("answerable"), label=f"against {kind}")
    axis.plot([0, 1], [0, 1], color="grey", lw=0.8, ls=":")
    axis.set(xlabel="answered although it should not", ylabel="answered: answerable")
    axis.legend(loc="lower right")
    return figure
