"""Mutation testing: change the code in small ways, and count the changes that no test notices.

    python lab/mutation.py [TARGET…] [--min 85]

Runs mutmut over copies in .mutation/ and prints killed and survived for each target. Fails below the
minimum, and when more survive in a function than lab/mutants.toml explains. Takes many minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))
from projects import PACKAGES

WORK = ROOT / ".mutation"
KIT, GENERATE = "dagger/kit/tests", "dagger/generate/tests"
RETRIEVE, SERVICE = "dagger/retrieve/tests", "service/tests"
DOUBLES = ("tests/doubles", "dagger/rag/tests")
# Validation of requests; not the server and the command line.
CHECKS = [
    *("rag_kit.request.*", "rag_service.http.requests.*"),
    *("rag_kit.errors.x_dump_error__mutmut_*", "rag_kit.handler.xǁHandlerǁ_accept__mutmut_*"),
]
# Of a collection: writing, and recovery after a crash; not searching.
JOURNAL = [
    f"rag_retrieve.index.collection.xǁCollectionǁ{name}__mutmut_*"
    for name in (
        *("versions", "prepare", "_embed", "removals", "commit", "checkpoint", "_apply", "_undo"),
        *("recover", "_journal", "counted", "replace"),
    )
]
# Of the crash tests, which take seconds each: one kill, and those within one process.
CRASHES = [
    "test_fault_ingestion_killed_at_each_step_loses_nothing_and_shows_nothing_torn[published]",
    "test_kill_during_reindex_keeps_the_old_collection",
]
# target -> files that are changed, tests that must notice, mutants that are tried (none: all)
TARGETS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "validation": (
        [
            "rag_kit/request.py",
            "rag_kit/errors.py",
            "rag_kit/handler.py",
            "rag_service/http/requests.py",
        ],
        [f"{KIT}/test_handler.py", f"{GENERATE}/test_wire.py", f"{SERVICE}/test_requests.py"],
        CHECKS,
    ),
    "auth": (["rag_service/http/middleware.py"], [f"{SERVICE}/test_middleware.py"], []),
    "deadline": (
        ["rag_service/service.py", "rag_service/http/context.py"],
        [f"{SERVICE}/test_service.py"],
        [],
    ),
    "retry": (
        ["rag_generate/openai_chat.py", "rag_generate/llm_faults.py"],
        [f"{GENERATE}/test_llm_faults.py", f"{GENERATE}/test_openai_chat.py"],
        [],
    ),
    "citations": (
        ["rag_generate/citations.py", "rag_generate/markers.py"],
        [f"{GENERATE}/test_citations.py", f"{GENERATE}/test_step.py"],
        [],
    ),
    "journal": (
        ["rag_retrieve/index/collection.py"],
        [
            *(f"{RETRIEVE}/{file}.py" for file in ("test_journal", "test_ingest")),
            *(f"{RETRIEVE}/test_crash.py::{name}" for name in CRASHES),
        ],
        JOURNAL,
    ),
}
# These start a process of their own, which finds no settings of mutmut in its folder.
DESELECTED = [
    f"{GENERATE}/test_wire.py::{name}"
    for name in (
        "test_the_command_answers_like_the_function",
        "test_the_client_of_a_model_is_not_imported_without_one",
    )
]
# Not mutated: the wording of messages and log lines, and the names of steps.
WORDING = [
    r"^\s*f?['\"][^'\"]* [^'\"]*['\"],?\)?$",
    r"\bLOG\.",
    r"\b_on_step\(",
    r"^\s*raise AssertionError",
]
OUTCOMES = {0: "survived", 1: "killed", 3: "killed", 33: "no tests", 34: "skipped"}


def prepare(files: list[str], tests: list[str]) -> Path:
    """Create the folder mutmut works in: the packages in src/, the tests at their paths."""
    shutil.rmtree(WORK, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", ".venv", "*.egg-info")
    for package, source in PACKAGES.items():
        shutil.copytree(source / package, WORK / "src" / package, ignore=ignored)
    (WORK / "mutants/src").mkdir(parents=True)  # Python remembers a path that is not there yet
    folders = [KIT, GENERATE, RETRIEVE, SERVICE, *DOUBLES, "contract"]
    for folder in folders:
        shutil.copytree(ROOT / folder, WORK / folder, ignore=ignored)
    shutil.copy(ROOT / "conftest.py", WORK)
    only = [f"src/{file}" for file in files]
    options = ["-p", "no:cacheprovider", "-p", "no:xdist"]
    options += [f"--deselect={test}" for test in DESELECTED]
    pytest = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pytest = pytest[pytest.index("[tool.pytest.ini_options]") :]
    pytest = re.sub(r"^testpaths = .*$", "", pytest, flags=re.MULTILINE)
    (WORK / "pyproject.toml").write_text(
        "[tool.mutmut]\n"
        'source_paths = ["src"]\n'
        f"only_mutate = {json.dumps(only)}\n"
        f"also_copy = {json.dumps([*folders, 'conftest.py'])}\n"
        f"pytest_add_cli_args_test_selection = {json.dumps(tests)}\n"
        f"pytest_add_cli_args = {json.dumps(options)}\n"
        f"do_not_mutate_patterns = {json.dumps(WORDING)}\n"
        'process_isolation = "forkserver"\n'
        "use_git_change_detection = false\n\n" + pytest,
        encoding="utf-8",
    )
    return WORK


def run(files: list[str], tests: list[str], only: list[str]) -> dict[str, str]:
    """Return the outcome of each mutant that was tried."""
    folder = prepare(files, tests)
    environment = {**os.environ, "PYTHONPATH": str(folder / "mutants/src")}
    log = folder / "mutmut.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "mutmut", "run", *only]
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=file, stderr=file, check=False
        )
    if done.returncode:
        sys.exit(f"mutmut could not run; see {log}")
    found = {}
    for file in files:
        meta = json.loads((folder / f"mutants/src/{file}.meta").read_text(encoding="utf-8"))
        for mutant, code in meta["exit_code_by_key"].items():
            if only and not any(fnmatchcase(mutant, pattern) for pattern in only):
                continue
            found[mutant] = OUTCOMES.get(code, "timeout" if code else "unknown")
    return found


def excused(mutant: str, left: list[str], explained: dict[str, dict[str, object]]) -> bool:
    """Tell whether all survivors in the mutant's function are explained."""
    function = mutant.rpartition("__mutmut_")[0]
    alike = [other for other in left if other.rpartition("__mutmut_")[0] == function]
    return len(alike) <= int(str(explained.get(function, {}).get("survivors", 0)))


def main(arguments: list[str]) -> int:
    """Run the targets; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all"
    )
    parser.add_argument("--min", type=float, default=85.0, help="percent that must be killed")
    options = parser.parse_args(arguments)
    explained = tomllib.loads((ROOT / "lab/mutants.toml").read_text(encoding="utf-8"))
    failed, lines = False, []
    for target in options.targets or TARGETS:
        found = run(*TARGETS[target])
        noticed = [mutant for mutant, what in found.items() if what in ("killed", "timeout")]
        left = sorted(set(found) - set(noticed))
        percent = 100 * len(noticed) / max(1, len(found))
        unexplained = [mutant for mutant in left if not excused(mutant, left, explained)]
        failed |= percent < options.min or bool(unexplained)
        lines.append(
            f"{target:12} {len(found):5} mutants  {len(noticed):5} killed  {percent:5.1f} %  "
            f"{len(unexplained)} survivors unexplained"
        )
        lines += [f"    {found[mutant]}: {mutant}" for mutant in unexplained]
    print("\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
