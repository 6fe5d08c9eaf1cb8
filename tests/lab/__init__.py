"""What stands in for a cluster, a toy task and tiny models, for tests."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
