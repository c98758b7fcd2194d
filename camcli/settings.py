"""What binds an output folder: the options and files that decide what a run writes."""

from __future__ import annotations

import hashlib
import os
import sys
from typing import Any

from camcli.config import RunConfig
from camcli.errors import ConfigError
from camcli.records import FITTED_MARK, FITTED_WEIGHTS, shown


def run_settings(config: RunConfig, root: str) -> dict[str, Any]:
    """What must be equal for two runs to share an output folder, as JSON values.

    The options that decide the results, ``root`` (the folder that the images' names are relative to), and the SHA-256 of the
    files given with ``--weights``, ``--labels`` and ``--class-from``, of the module that holds a model factory, and of a fitted
    model's weights. Raises
    ConfigError for a file that cannot be read.
    """
    settings = {**config.settings(), "inputs": root}
    files = (
        ("weights", config.weights),
        ("labels", config.labels),
        ("class-from", config.class_from),
        ("model", _model_file(config.model)),
    )
    for name, path in files:
        if path is not None and os.path.isfile(path):
            try:
                with open(path, "rb") as file:
                    settings[f"{name}-sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise ConfigError(f"--{name} {shown(path)}: {error.strerror}.") from error
    return settings


def _model_file(model: str) -> str | None:
    """The weights of a fitted model, or the source file of the module in ``package.module:factory``, without importing it.

    None where there is none.
    """
    if os.path.isfile(os.path.join(model, FITTED_MARK)):
        return os.path.join(model, FITTED_WEIGHTS)
    if ":" not in model:
        return None
    relative = model.partition(":")[0].replace(".", os.sep)
    places = (os.path.join(folder or ".", relative + end) for folder in ("", *sys.path) for end in (".py", f"{os.sep}__init__.py"))
    return next((place for place in places if os.path.isfile(place)), None)
