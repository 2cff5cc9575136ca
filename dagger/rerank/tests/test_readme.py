from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_readme_prints_what_its_commands_print():
    """The shell command and the Python call, run as they stand."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
    (shell, command), (_, said), (python, call), (_, answered), *_ = blocks
    assert (shell, python) == ("sh", "python")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for arguments, expected in ((["sh", "-c", command], said), (["python", "-c", call], answered)):
        ran = subprocess.run(
            arguments, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True
        )
        assert ran.stdout == expected
