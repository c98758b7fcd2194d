"""A study -> the data of its page, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from camcli.cluster.config import ClusterConfig
from camcli.cluster.flags import FLAGS
from camcli.cluster.read import Collection, Item
from camcli.cluster.study import WRITTEN_COMPONENTS, ClassResult, Group, Study
from camcli.layout import REPORT_PAGE
from camcli.output.files import is_report
from camcli.records import escape_name
from camcli.report.scripts import filled_page, folder_urls, is_file_name, json_script, quoted
from camcli.report.thumbnails import current_thumbnail

MOST_ON_PAGE = 5000
"""Images of a class on the page; of a larger class it has those that stand for something, and others at random."""

_SCRIPTS = ("base.js", "address.js", "grid.js", "dialog.js", "clusters.js")
_IN_SCRIPTS = "backslashreplace"


def page_html(title: str) -> bytes:
    """The HTML page; its data is in a file beside it."""
    return filled_page("clusters.html", ("report.css", "clusters.css"), _SCRIPTS, title=title).encode("utf-8")


def script_of(name: str, value: Any) -> bytes:
    """A script that sets the global variable ``name`` to ``value``."""
    return f"var {name}={json_script(value)};\n".encode("utf-8", _IN_SCRIPTS)


def page_data(study: Study, found: Collection, config: ClusterConfig, folder: str) -> dict[str, Any]:
    """The data of the page in ``folder``."""
    columns: dict[str, list[Any]] = {
        key: [] for key in ("name", "run", "class", "group", "x", "y", "p", "correct", "predicted", "overlay", "thumb", "place")
    }
    words: dict[str, int] = {}
    classes = [_class_data(number, result, found, columns, words, config.seed) for number, result in enumerate(study.classes)]
    return {
        "by": config.by,
        "evidence": config.evidence,
        "layer": escape_name(found.layer),
        "method": escape_name(found.method),
        "small": study.small,
        "damaged": study.damaged,
        "runs": [
            {
                "name": escape_name(run.path),
                "url": folder_urls(run.path, folder)[0],
                "original": folder_urls(inputs, folder)[0] if is_file_name(inputs := run.ledger.settings.get("inputs")) else "",
                "report": is_report(run.root, REPORT_PAGE),
                "images": run.images,
            }
            for run in found.runs
        ],
        "words": list(words),
        "images": columns,
        "classes": classes,
    }


def _class_data(
    number: int, result: ClassResult, found: Collection, columns: dict[str, list[Any]], words: dict[str, int], seed: int
) -> dict[str, Any]:
    ends = [result.ends(component) for component in range(_component_count(result))]
    shown = _shown(result, ends, seed)
    first = len(columns["name"])
    ids = {image: first + position for position, image in enumerate(shown)}
    group_of = np.zeros(len(result.items), np.int64)
    for group in result.groups:
        group_of[group.members] = group.number
    for image in shown:
        _add_image(columns, result.items[image], found, number, words)
        columns["group"].append(int(group_of[image]))
        columns["x"].append(round(float(result.places[image, 0]), 4))
        columns["y"].append(round(float(result.places[image, 1]), 4))

    def numbered(images: Sequence[int]) -> list[int]:
        return [ids[image] for image in images]

    components = []
    for component, (low, high) in enumerate(ends):
        assert result.components is not None
        share = round(float(result.components.shares[component]), 4)
        components.append({"share": share, "low": numbered(low), "high": numbered(high)})
    return {
        "name": escape_name(result.name),
        "images": len(result.items),
        "first": first,
        "end": len(columns["name"]),
        "dense": result.grouping.dense,
        "map": _map_data(result.mean_map),
        "components": components,
        "groups": [
            {
                **group_facts(group),
                "flags": [[FLAGS[flag], figures] for flag, figures in group.flags.items()],
                "map": _map_data(group.mean_map),
                "typical": numbered(group.typical),
                "untypical": numbered(group.untypical),
                "channels": [{**channel_facts(channel), "images": numbered(channel.images)} for channel in group.channels],
            }
            for group in result.groups
        ],
    }


def _component_count(result: ClassResult) -> int:
    if result.components is None or result.components.variance <= 0:
        return 0
    return min(WRITTEN_COMPONENTS, int(result.components.scores.shape[1]))


def _shown(result: ClassResult, ends: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], seed: int) -> list[int]:
    """The images of a class that the page has, in order."""
    count = len(result.items)
    if count <= MOST_ON_PAGE:
        return list(range(count))
    needed = {image for pair in ends for end in pair for image in end}
    for group in result.groups:
        needed |= {*group.typical, *group.untypical, *(image for channel in group.channels for image in channel.images)}
    others = np.random.default_rng(seed).permutation(count)
    needed |= set(others[: max(0, MOST_ON_PAGE - len(needed))].tolist())
    return sorted(needed)


def _add_image(columns: dict[str, list[Any]], item: Item, found: Collection, number: int, words: dict[str, int]) -> None:
    run = found.runs[item.run]
    columns["name"].append(escape_name(item.entry.image))
    columns["run"].append(item.run)
    columns["class"].append(number)
    columns["p"].append(round(item.probability, 5))
    columns["correct"].append(None if item.correct is None else int(item.correct))
    columns["predicted"].append(words.setdefault(escape_name(item.predicted), len(words)))
    columns["overlay"].append(quoted(item.overlay) if item.overlay else "")
    columns["thumb"].append(quoted(current_thumbnail(run.root, item.overlay)) if item.overlay else "")
    columns["place"].append(item.place)


def _map_data(values: np.ndarray | None) -> list[list[float]] | None:
    """A mean map divided by its peak, rounded; None without one."""
    if values is None or not values.max() > 0:
        return None
    return [[round(float(value), 3) for value in row] for row in values / values.max()]


def group_facts(group: Group) -> dict[str, Any]:
    """What is measured of a group, as JSON values."""
    return {
        "group": group.number,
        "images": len(group.members),
        "share": _rounded(group.share),
        "silhouette": _rounded(group.silhouette),
        "accuracy": _rounded(group.accuracy[0]),
        "accuracy_outside": _rounded(group.accuracy[1]),
        "confidence": _rounded(group.confidence[0]),
        "confidence_outside": _rounded(group.confidence[1]),
        "suspicion": _rounded(group.suspicion),
        "suspected": group.suspected,
    }


def channel_facts(channel: Any) -> dict[str, Any]:
    """What is measured of a channel, as JSON values."""
    return {
        "channel": channel.index,
        "difference": _rounded(channel.difference),
        "inside": _rounded(channel.inside),
        "outside": _rounded(channel.outside),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(format(value, ".5g"))
