"""SanityConfig: every option of ``camcli sanity`` that is not one of ``camcli run``, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from camcli.config.field import binding_values, check_values, option
from camcli.errors import ConfigError

DEFAULT_METHODS = ("gradcam", "cam", "guided-backprop", "guided-gradcam")
"""Those of which Adebayo et al. 2018 and Selvaraju et al. 2017 speak: two that are said to pass, and two that are said to fail."""

STEPS = ("blocks", "all")
"""How many layers lose their weights at once: a block, or one (with the normalisation behind it)."""

_CHECK, _OUTPUT = "Check", "Output"


@dataclass(frozen=True)
class SanityConfig:
    """The options of one check, as in ``camcli.config.run.RunConfig``."""

    method: tuple[str, ...] = option(
        DEFAULT_METHODS, "Method to check, as camcli methods lists it; repeatable.", _CHECK, metavar="NAME"
    )
    class_: str | None = option(
        None,
        "Explain this class, by index or name, in every image. Default: what the network predicts before anything is redrawn.",
        _CHECK,
        short="-c",
        metavar="CLASS",
    )
    steps: str = option(
        "blocks", "How many layers lose their weights at once: a block of the network, or a single one.", _CHECK, choices=STEPS
    )
    seed: int = option(0, "Of the new weights: the same seed gives the same.", _CHECK, metavar="N", at_least=0)
    limit: int = option(16, "Take the first N images.", _CHECK, metavar="N", at_least=1)
    strip: int = option(1, "Show the maps of the first N images in strip.png.", _OUTPUT, metavar="N", at_least=1, at_most=16)
    output: str = option(
        "sanity", "Folder for tables and pictures; its parent must exist.", _OUTPUT, short="-o", metavar="DIR",
        affects_results=False,
    )  # fmt: skip
    overwrite: bool = option(
        False, "Start anew in a folder that holds a check with other settings.", _OUTPUT, affects_results=False
    )
    quiet: bool = option(False, "Say nothing but errors.", _OUTPUT, short="-q", affects_results=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", tuple(dict.fromkeys(self.method)))

    def settings(self) -> dict[str, Any]:
        """The options that decide what a check finds, as JSON values."""
        return binding_values(self)

    def check(self) -> SanityConfig:
        """Itself, when every value is within its limits. Raises ConfigError."""
        check_values(self)
        if not self.method:
            raise ConfigError("--method is empty: name one, such as gradcam.")
        return self
