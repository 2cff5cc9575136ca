"""What the tests of faults share: the kits of the service's and the steps' tests."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KITS = ("service/tests", "dagger/generate/tests", "dagger/retrieve/tests", "tests/faults")
sys.path[:0] = [str(ROOT / kit) for kit in KITS]
