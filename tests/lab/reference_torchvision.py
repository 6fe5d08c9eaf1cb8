"""torchvision's DenseNet, the reference of ours, from a folder of its own: `pip install --no-deps
--target .venv/torchvision torchvision==0.28.0`. Elsewhere transformers would find it.
"""

import sys
from pathlib import Path

import pytest


def load():
    """The class; skips the test where torchvision is not installed."""
    torch = pytest.importorskip("torch")
    sys.path.append(str(Path(sys.prefix) / "torchvision"))
    try:
        return pytest.importorskip("torchvision.models.densenet").DenseNet
    except RuntimeError:
        # Beside a PyTorch without CUDA its operators do not load, and importing it ends at the
        # first that is missing. A DenseNet needs none of them.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        load.operators = operators  # they go with it
        return pytest.importorskip("torchvision.models.densenet").DenseNet
    finally:
        sys.path.pop()
