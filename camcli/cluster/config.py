"""ClusterConfig: the options of ``camcli cluster``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from camcli.config.field import binding_values, check_values, option
from camcli.errors import ConfigError

CLASSES_BY = ("predicted", "true")
"""The class to which an image counts: the predicted class, or the true label."""

EVIDENCE = ("both", "what", "where")
"""What is compared: contributions of the channels (what), maps (where), or both side by side."""

LAYOUTS = ("tsne", "umap", "pca")
FILLS = ("inpaint", "blur")

_GROUPS, _TEST, _OUTPUT = "Groups", "Test of a group", "Output"


@dataclass(frozen=True)
class ClusterConfig:
    """The options of the command. Their names, defaults, limits and help are declared as in ``camcli.config.run.RunConfig``."""

    by: str = option(
        "predicted", "Class to which an image counts: the predicted class, or the true label.", _GROUPS, choices=CLASSES_BY
    )
    evidence: str = option(
        "both",
        "Compare what the evidence is (contributions of the channels), where it is (maps), or both side by side.",
        _GROUPS,
        choices=EVIDENCE,
    )
    class_: tuple[str, ...] = option((), "Only this class, by name; repeatable.", _GROUPS, short="-c", metavar="CLASS")
    min_images: int = option(30, "Leave out classes with fewer images.", _GROUPS, metavar="N", at_least=2)
    layer: str | None = option(
        None,
        "Layer of the maps and contributions, if the run has several. Default: the first.",
        _GROUPS,
        short="-l",
        metavar="NAME",
    )
    method: str | None = option(None, "Method of the maps, if the run has several. Default: the first.", _GROUPS, metavar="NAME")
    sample: int = option(
        4000,
        "Images of a class that are held in memory at once, and among which groups are looked for; the others join the nearest "
        "group.",
        _GROUPS,
        metavar="N",
        at_least=100,
        at_most=50_000,
    )
    layout: str = option(
        "tsne", "Picture of a class in two dimensions; umap needs the package umap-learn.", _GROUPS, choices=LAYOUTS
    )
    seed: int = option(0, "Random seed.", _GROUPS, metavar="N", at_least=0, at_most=2**32 - 1)
    test: int | None = option(
        None,
        "Test a group, by its number: cover its evidence and see whether the class goes away.",
        _TEST,
        metavar="GROUP",
        at_least=1,
        affects_results=False,
    )
    paste: bool = option(False, "With --test: also paste the evidence into images of other classes.", _TEST, affects_results=False)
    test_images: int = option(
        100, "Images of the group, and as many others, for --test.", _TEST, metavar="N", at_least=2, affects_results=False
    )
    fill: str = option(
        "inpaint", "How evidence is covered: from the colours around it, or by a strong blur.", _TEST, choices=FILLS,
        affects_results=False,
    )  # fmt: skip
    output: str | None = option(
        None,
        "Folder for the page and the tables. Default: clusters in the first DIR.",
        _OUTPUT,
        short="-o",
        metavar="DIR",
        affects_results=False,
    )
    overwrite: bool = option(False, "Replace groups that were made with other settings.", _OUTPUT, affects_results=False)
    quiet: bool = option(False, "Print errors only.", _OUTPUT, short="-q", affects_results=False)

    def settings(self) -> dict[str, Any]:
        """The options that affect the groups, as JSON values."""
        return binding_values(self)

    def check(self) -> ClusterConfig:
        """Itself, if every value is within its limits. Raises ConfigError."""
        check_values(self)
        if self.paste and self.test is None:
            raise ConfigError("--paste needs --test GROUP.")
        return self
