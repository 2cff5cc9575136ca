"""The guides are followed as a reader would: every command is run, every output compared.

What a guide needs beside the product is stood in for, each by a named double: the user's model server
by `llm_stub`, the Superlinked server by `superlinked_double` (the real one in the full lane, where it is
installed), the collector of traces by one here. Blocks that call `dagger` are checked against the modules'
functions here; tests/engine/test_engine_guides.py runs them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from guide_doubles import GUIDES, LEFT, guide_named, real_superlinked, standing_in
from guide_kit import Block, Session, blocks, follow, is_output, pattern_of, session
from test_examples import check_command, commands

from rag_service.http.metrics import Metrics

ROOT = Path(__file__).resolve().parent.parent
FAST = {"quick-start.md"}
SUPERLINKED = ROOT / "dagger/retrieve/superlinked/.venv/bin/python"
ALARMS = guide_named("operate.md")


# One guide runs in every lane, the others in the full one: a `rag` command costs seconds.
FOLLOWED = [
    pytest.param(guide, id=guide.name, marks=[] if guide.name in FAST else pytest.mark.full)
    for guide in GUIDES
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("guide", FOLLOWED)
def test_a_guide_works_as_it_is_written(guide: Path, tmp_path: Path) -> None:
    """Its commands succeed in their order, and print what is shown."""
    with standing_in(guide) as (replacements, environment, look):
        with session(tmp_path / "reader", tmp_path / "aside", replacements, environment) as reader:
            ran = follow(guide, reader, LEFT.get(guide.name, {}))
            if guide.name == "evaluation.md":
                run_workflow(reader)
        look(reader)

    assert ran


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.skipif(
    not SUPERLINKED.exists(),
    reason="the Superlinked server's environment is not installed; `make test-superlinked` does it",
)
def test_the_superlinked_guide_works_with_the_real_server(tmp_path: Path) -> None:
    """The double's ranking is that of the real Superlinked."""
    guide = guide_named("superlinked.md")
    with (
        real_superlinked(SUPERLINKED) as replacements,
        session(tmp_path / "reader", tmp_path / "aside", replacements) as reader,
    ):
        assert follow(guide, reader, LEFT[guide.name])


def run_workflow(reader: Session) -> None:
    """Run the steps of the workflow in the guide, except those that install."""
    [workflow] = (reader.folder / ".github/workflows").iterdir()
    steps = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]["measure"]["steps"]
    own = [step["run"] for step in steps if "run" in step and ".rag/" not in step["run"]]
    assert len(own) == 1
    for text in own:
        reader.run(Block(workflow, 1, "sh", text, ""))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_no_block_of_a_guide_is_passed_over(guide: Path) -> None:
    """Each block is run, saved as a file, compared, or skipped with a reason that still applies."""
    left = LEFT.get(guide.name, {})
    last, stale = None, set(left)
    for block in blocks(guide):
        reasons = [beginning for beginning in left if block.text.startswith(beginning)]
        stale -= set(reasons)
        tried = block.file or is_output(block, last) or block.language in ("sh", "python")
        assert bool(tried) or bool(reasons), f"{block.where} is not tried:\n{block.text}"
        last = block

    assert stale == set()
    assert last is not None


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_the_dagger_commands_of_a_guide_call_what_there_is(guide: Path) -> None:
    """Modules, functions and arguments exist."""
    for words in commands(guide.read_text(encoding="utf-8")):
        check_command(words)


def test_the_index_lists_every_guide() -> None:
    """Every guide is linked from the index."""
    index = (ROOT / "docs/guides/README.md").read_text(encoding="utf-8")
    for guide in GUIDES:
        path = guide.name if guide.parent.name == "guides" else f"../{guide.name}"
        assert f"]({path})" in index


def test_the_alarms_watch_metrics_that_there_are() -> None:
    """Every metric in the alarms exists: a renamed one would leave an alarm silent."""
    [rules] = [block for block in blocks(ALARMS) if block.file == "rag-alarms.yml"]
    known = {"up"}
    for metric in Metrics().registry.collect():
        if metric.type == "histogram":
            known |= {f"{metric.name}_{part}" for part in ("bucket", "count", "sum")}
        known.add(f"{metric.name}_total" if metric.type == "counter" else metric.name)
    for rule in yaml.safe_load(rules.text)["groups"][0]["rules"]:
        named = set(re.findall(r"(?<!/)\b(rag_\w+|up)\b", rule["expr"]))
        assert named
        assert named <= known, rule["alert"]
        assert rule["annotations"]["summary"]


def test_prometheus_takes_the_alarms(tmp_path: Path) -> None:
    """Prometheus' own checker reads the rules and the configuration of the guide."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed; it comes with Prometheus")
    for block in blocks(ALARMS):
        if block.file and block.language == "yaml":
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    (tmp_path / "monitoring.key").write_text("a key")
    for command in (["check", "rules", "rag-alarms.yml"], ["check", "config", "prometheus.yml"]):
        done = subprocess.run(
            ["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


# -- the kit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```sh\nfalse\n```\n", "fails"),
        ("```sh\nfalse\necho after\n```\n", "fails"),
        ("```python\nraise SystemExit(3)\n```\n", "fails"),
        ("```sh\necho one\n```\n```\ntwo\n```\n", "shows"),
        ("```sh\necho one; echo two\n```\n```\none\n```\n", "shows"),
        ("```toml\na = 1\n```\n", "is neither run"),
        ("```sh\necho one\n```\n\nprose\n\n```\none\n```\n", "is neither run"),
    ],
)
def test_a_guide_that_is_wrong_fails(text: str, said: str, tmp_path: Path) -> None:
    """A failing command, a different output and an unused block are reported with their line."""
    guide = tmp_path / "wrong.md"
    guide.write_text(text, encoding="utf-8")
    with (
        session(tmp_path / "reader", tmp_path / "aside") as reader,
        pytest.raises(AssertionError, match=rf"wrong\.md:\d+ {said}"),
    ):
        follow(guide, reader, {})


def test_a_guide_is_one_session(tmp_path: Path) -> None:
    """Variables, the folder and files carry over; a server is waited for, at a port of its own."""
    guide = tmp_path / "right.md"
    guide.write_text(
        "Saved as `a/page.txt`:\n\n```text\nhello\n```\n"
        "```sh\nexport WHO=world\ncd a\npython -m http.server 8082 --bind 127.0.0.1 &   # :8082\n```\n"
        "```sh\ncurl -s localhost:8082/page.txt; echo $WHO; pwd\nkill $!\n```\n"
        "```\nhello\nworld\n…/reader/a\n```\n"
        "```python\nimport os\nprint(os.environ['WHO'])\n```\n```\nwor…\n```\n",
        encoding="utf-8",
    )
    with session(tmp_path / "reader", tmp_path / "aside") as reader:
        ran = follow(guide, reader, {})

    assert [block.language for block in ran] == ["sh", "sh", "python"]
    assert {path.name for path in tmp_path.iterdir()} == {"right.md", "reader", "aside"}


def test_what_varies_is_shown_by_an_ellipsis() -> None:
    """In a line it stands for some text, alone on a line for some lines."""
    assert pattern_of("a … c\n").fullmatch("a b c\n")
    assert pattern_of("a\n…\nz\n").fullmatch("a\nb\nc\nz\n")
    assert pattern_of("a\n…\nz\n").fullmatch("a\nz\n")
    assert pattern_of("a  c\n").fullmatch("a     c  \n")
    assert not pattern_of("a …\n").fullmatch("a b\nc\n")
    assert not pattern_of("a c\n").fullmatch("ac\n")
