"""camcli: where does the classifier look? Class activation heatmaps for whole folders of images.

``run`` does what ``camcli run`` does; ``load`` and ``explain`` explain images in memory. Their first use imports PyTorch.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["CamcliError", "Explained", "Preprocess", "RunSummary", "explain", "load", "run"]

if TYPE_CHECKING:
    from camcli.api import Explained, explain, load, run
    from camcli.errors import CamcliError
    from camcli.pipeline.summary import RunSummary
    from camcli.records import Preprocess

_MODULES = {"CamcliError": "camcli.errors", "Preprocess": "camcli.records", "RunSummary": "camcli.pipeline.summary"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        import importlib

        return getattr(importlib.import_module(_MODULES.get(name, "camcli.api")), name)
    raise AttributeError(f"module 'camcli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING", "_MODULES"})
