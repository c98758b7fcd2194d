"""SanityConfig: the options of ``camcli sanity`` that ``camcli run`` does not have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from camcli.config.field import binding_values, check_values, option
from camcli.errors import ConfigError

DEFAULT_METHODS = ("gradcam", "cam", "guided-backprop", "guided-gradcam")
"""Methods discussed by Adebayo et al. 2018 and Selvaraju et al. 2017: two that should pass, and two that should fail."""

STEPS = ("blocks", "all")
"""What is randomized in one step: a block of layers, or a single layer with the normalization layer behind it."""

_CHECK, _OUTPUT = "Check", "Output"


@dataclass(frozen=True)
class SanityConfig:
    """The options of one check. Their names, defaults, limits and help are declared as in ``camcli.config.run.RunConfig``."""

    method: tuple[str, ...] = option(
        DEFAULT_METHODS, "Method to check, by its name in camcli methods; repeatable.", _CHECK, metavar="NAME"
    )
    class_: str | None = option(
        None,
        "Explain this class, by index or name, in every image. Default: the class that the trained network predicts.",
        _CHECK,
        short="-c",
        metavar="CLASS",
    )
    steps: str = option(
        "blocks", "Randomize one block of layers in each step (blocks), or a single layer (all).", _CHECK, choices=STEPS
    )
    seed: int = option(0, "Random seed of the new weights.", _CHECK, metavar="N", at_least=0)
    limit: int = option(16, "Use the first N images.", _CHECK, metavar="N", at_least=1)
    strip: int = option(1, "Show the maps of the first N images in strip.png.", _OUTPUT, metavar="N", at_least=1, at_most=16)
    output: str = option(
        "sanity", "Folder for tables and pictures; its parent folder must exist.", _OUTPUT, short="-o", metavar="DIR",
        affects_results=False,
    )  # fmt: skip
    overwrite: bool = option(False, "Replace a check that was made with other settings.", _OUTPUT, affects_results=False)
    quiet: bool = option(False, "Print errors only.", _OUTPUT, short="-q", affects_results=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", tuple(dict.fromkeys(self.method)))

    def settings(self) -> dict[str, Any]:
        """The options that affect the results of a check, as JSON values."""
        return binding_values(self)

    def check(self) -> SanityConfig:
        """Itself, if every value is within its limits. Raises ConfigError."""
        check_values(self)
        if not self.method:
            raise ConfigError("--method is empty: name a method, such as gradcam.")
        return self
