"""Image classifiers of Hugging Face transformers: by their name on the hub, or from a folder that ``save_pretrained`` wrote.

The package transformers is an extra. It is imported when a model is loaded: that takes seconds. No code of a repository runs, and
weights are read from safetensors files only.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from camcli.documents import parse_json, read_document
from camcli.errors import ModelError, WeightsError, first_line
from camcli.layout import HUB_CONFIG
from camcli.models.labels import default_labels
from camcli.models.request import ModelInfo, ModelRequest
from camcli.models.sources import ModelSource, register_source
from camcli.records import LoadedModel, escape_name

if TYPE_CHECKING:
    from torch import nn

PREFIX = "hf/"
_NAME = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?(?:@[\w./-]{1,96})?", re.ASCII)
_KIND = "ForImageClassification"
_REMOTE = ("trust_remote_code", "custom code")


@dataclass(frozen=True)
class Place:
    """Where a model is: ``path``, a folder or a name on the hub, and ``revision``, a branch, tag or commit; None for the newest."""

    path: str
    revision: str | None
    local: bool

    def options(self, why_not: str) -> dict[str, Any]:
        """The options of every ``from_pretrained``. ``why_not``: why the hub cannot be reached; empty if it can."""
        return {"trust_remote_code": False, "revision": self.revision, "local_files_only": self.local or bool(why_not)}


@register_source
class HubSource(ModelSource):
    """Image classifiers of transformers, as ``hf/NAME`` or as a folder with ``config.json``."""

    name = "hf"
    priority = 45  # behind the folders of camcli fit
    prefix = PREFIX
    packages = ("transformers",)
    listed_by_default = False
    hint = "Hugging Face's: hf/NAME, or a folder that save_pretrained wrote; on this machine: camcli models 'hf/*'."

    def owns(self, name: str) -> bool:
        """Whether ``name`` begins with ``hf/``, or is a folder with the file ``config.json``."""
        return name.startswith(PREFIX) or os.path.isfile(os.path.join(name, HUB_CONFIG))

    def load(self, request: ModelRequest) -> LoadedModel:
        """The classifier with its own, a checkpoint's or random weights. Raises ModelError, WeightsError."""
        from camcli.models.build import as_module, unknown_weights, with_weights
        from camcli.models.hub_preprocess import preprocess_of_processor

        transformers = _transformers(request.name)
        with _reached(request, self._place(request.name)) as (place, options):
            config = _config(transformers, request, place, options)
            processor = _processor(transformers, request, place, options)
            found = preprocess_of_processor(request.name, processor, config)
            labels = _labels(config)
            if not request.random and not request.checkpoint:
                if request.weights != "DEFAULT":
                    raise unknown_weights(request, ("DEFAULT",))
                module = as_module(_pretrained(transformers, request, place, config, options))
                model = LoadedModel(request.name, module, found.preprocess, labels, _origin(place))
            else:

                def build(num_classes: int | None = None) -> nn.Module:
                    changed = copy.deepcopy(config)
                    if num_classes is not None:
                        changed.num_labels = num_classes
                    return as_module(_untrained(transformers, request, changed))

                model = with_weights(request, build, found.preprocess, ("DEFAULT",), aim_at_imagenet=False)
                model = replace(model, classes=labels if len(labels) == len(model.classes) or request.random else model.classes)
        module = model.module.float()
        if found.blue_first:
            _exchange_colours(module)
        return replace(model, module=module, notes=(*model.notes, *found.notes))

    def _place(self, name: str) -> Place:
        if os.path.isdir(name):
            return Place(name, None, local=True)
        given = name.removeprefix(PREFIX)
        if not _NAME.fullmatch(given) or ".." in given:
            raise ModelError(
                f"{escape_name(name)!r} is neither a folder nor a name on the hub, such as hf/microsoft/resnet-50; "
                "hf/NAME@REVISION takes a branch, tag or commit."
            )
        path, _, revision = given.partition("@")
        return Place(path, revision or None, local=False)

    def list(self) -> Iterator[ModelInfo]:
        """The image classifiers in the cache of the hub."""
        for name, config in _cached_configs():
            size = config.get("image_size")
            side = size if type(size) is int and size > 0 else None
            yield ModelInfo(PREFIX + name, self.name, None, (side, side) if side else None, None, True)

    def labels(self, request: ModelRequest) -> tuple[str, ...]:
        """The names in the configuration; for a checkpoint, names for the size of its head."""
        if request.checkpoint:
            return self.load(request).classes
        transformers = _transformers(request.name)
        with _reached(request, self._place(request.name)) as (place, options):
            return _labels(_config(transformers, request, place, options))

    def complete_names(self) -> Iterable[str]:
        """The image classifiers in the cache of the hub."""
        return (PREFIX + name for name, _ in _cached_configs())

    def complete_classes(self, name: str) -> Sequence[str] | None:
        """The names in a folder's configuration."""
        if not self.owns(name):
            return None
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            return [str(label) for label in parse_json(read_document(os.path.join(name, HUB_CONFIG)))["id2label"].values()]
        return ()


def _transformers(name: str) -> Any:
    """The package transformers, quiet. Raises ModelError if it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise ModelError(f"{escape_name(name)} needs the package transformers: pip install 'camcli[hf]'") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


@contextlib.contextmanager
def _reached(request: ModelRequest, place: Place) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The place and the options of ``from_pretrained``; inside, the hub is asked once at most. Raises no errors of its own."""
    from camcli.models.download import hub_without_retries

    if place.local:
        _refuse_odd_documents(request.name)
        yield place, place.options("")
        return
    with hub_without_retries() as why_not:
        yield place, place.options(why_not)


def _refuse_odd_documents(folder: str) -> None:
    """Raise ModelError for a configuration that is no JSON object, is endless, or asks for what camcli does not do."""
    path = os.path.join(folder, HUB_CONFIG)
    try:
        found = parse_json(read_document(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{escape_name(path)} cannot be read: {first_line(error, with_type=False)}") from error
    if not isinstance(found, dict) or "model_type" not in found:
        raise ModelError(f"{escape_name(path)} does not describe a model of transformers: it has no model_type.")
    large = next((key for key, value in found.items() if type(value) is int and value > _LIMITS.get(key, _MOST)), None)
    if large is not None:
        raise ModelError(f"{escape_name(path)}: {escape_name(large)} is {str(found[large])[:20]}, which no network has.")


def _config(transformers: Any, request: ModelRequest, place: Place, options: dict[str, Any]) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(place.path, **options)
    except Exception as error:  # whatever a stranger's configuration, or the network, may lead to
        raise _not_found(request, place, error, options) from error
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"{escape_name(request.name)} is quantized, which leaves no gradients to explain: take the original model."
        )
    return config


_MOST = 10_000_000
_LIMITS = {
    "num_labels": 1_000_000,
    "num_hidden_layers": 1000,
    "hidden_size": 65_536,
    "intermediate_size": 1_000_000,
    "image_size": 4096,
}
"""The largest numbers in a configuration; others, in a forged one, would fill the memory before the weights are read."""


def _processor(transformers: Any, request: ModelRequest, place: Place, options: dict[str, Any]) -> Any:
    """The image processor; None if the model comes without one."""
    try:
        return transformers.AutoImageProcessor.from_pretrained(place.path, **options)
    except OSError:
        return None
    except Exception as error:  # a stranger's file may lead to anything
        raise ModelError(
            f"the image processor of {escape_name(request.name)} cannot be loaded ({escape_name(first_line(error))}). Load the "
            "model in a factory, --model package.module:factory, and say there how its images are prepared."
        ) from error


def _pretrained(transformers: Any, request: ModelRequest, place: Place, config: Any, options: dict[str, Any]) -> Any:
    """The network with its own weights. Raises WeightsError if some are missing or do not fit, or are no safetensors."""
    factory = transformers.AutoModelForImageClassification.from_pretrained
    more = {**options, "use_safetensors": True, "output_loading_info": True}

    def load(config: Any, **chosen: Any) -> Any:
        return factory(place.path, config=config, **more, **chosen)

    try:
        module, report = _with_attention(load, config, {})
    except ModelError:
        raise
    except Exception as error:
        raise _not_found(request, place, error, options) from error
    missing = [*report.get("missing_keys", ()), *(key for key, *_ in report.get("mismatched_keys", ()))]
    if missing:
        raise WeightsError(
            f"{escape_name(request.name)} has no weights for {escape_name(str(sorted(map(str, missing))[0]))}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}: it is not trained as a classifier. Take a model that "
            "is fine-tuned for image classification."
        )
    return module


def _untrained(transformers: Any, request: ModelRequest, config: Any) -> Any:
    """The network without trained weights. Raises ModelError for a configuration from which none can be built."""
    try:
        return _with_attention(transformers.AutoModelForImageClassification.from_config, config, {"trust_remote_code": False})
    except Exception as error:  # a stranger's configuration may lead to anything
        raise _not_found(request, Place(request.name, None, local=True), error, {}) from error


def _with_attention(load: Any, config: Any, options: dict[str, Any]) -> Any:
    """What ``load`` returns for the attention that methods for transformers can read, else for the model's plain one.

    It is always named, because a configuration may name kernels that would be downloaded and run.
    """
    try:
        return load(config, attn_implementation="sdpa", **options)
    except ValueError as error:
        if "attention" not in str(error) and "sdpa" not in str(error):
            raise
        return load(config, attn_implementation="eager", **options)


def _not_found(request: ModelRequest, place: Place, error: Exception, options: dict[str, Any]) -> ModelError | WeightsError:
    """The error for a model that cannot be loaded, with the reason and a way out."""
    name, said = escape_name(request.name), str(error)
    if any(word in said for word in _REMOTE):
        return ModelError(f"{name} needs code from its repository, which camcli never runs. Load it in a factory if you trust it.")
    if "safetensors" in said and place.local:
        return WeightsError(
            f"{name} has no model.safetensors, and camcli reads no other weights of transformers, because pickles can run code. "
            "Convert them: AutoModelForImageClassification.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    if "Unrecognized configuration class" in said:
        return ModelError(f"{name} is not an image classifier, which is all that camcli explains of transformers.")
    if place.local or not isinstance(error, OSError):
        return ModelError(f"{name} cannot be loaded: {escape_name(first_line(error))}")
    if options["local_files_only"]:
        return WeightsError(
            f"{name} is not on this machine, and huggingface.co cannot be reached. On a machine with a network run `hf download "
            f"{place.path}`, and copy its folder models--{place.path.replace('/', '--')} into {_cache()} (HF_HOME moves it). Or "
            "give --model the folder that save_pretrained wrote."
        )
    return WeightsError(f"{name} cannot be downloaded, or has no model.safetensors: {escape_name(first_line(error))}")


def _labels(config: Any) -> tuple[str, ...]:
    """The class names in ``id2label``; ImageNet's or ``class N`` where they are placeholders or incomplete."""
    given, count = config.id2label or {}, config.num_labels
    names = [given.get(index) for index in range(count)]
    if all(isinstance(name, str) and name and name != f"LABEL_{index}" for index, name in enumerate(names)):
        return tuple(map(str, names))
    return default_labels(count)


def _exchange_colours(module: nn.Module) -> None:
    """Let a network of blue, green, red take red, green, blue: the first convolution's channels change places."""
    from camcli.models.channels import first_convolution

    first = first_convolution(module)
    if first is None or first[1].in_channels != 3:
        raise ModelError("the image processor exchanges the colours, and the network does not begin with a convolution.")
    first[1].weight.data = first[1].weight.data.flip(1).contiguous()


def _origin(place: Place) -> str:
    """Which weights were loaded: the commit of a repository on the hub, or the folder."""
    if place.local:
        return f"in {place.path}"
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(place.path, HUB_CONFIG, revision=place.revision)
    return f"commit {os.path.basename(os.path.dirname(found))}" if isinstance(found, str) else place.path


def _cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


def _cached_configs() -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and the configuration of every image classifier in the cache of the hub, sorted by name."""
    folder = _cache()
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(folder)):
            if not entry.startswith("models--"):
                continue
            with contextlib.suppress(OSError, ValueError, RecursionError):
                commit = read_document(os.path.join(folder, entry, "refs", "main")).decode("ascii").strip()
                if not re.fullmatch(r"[0-9a-f]{1,64}", commit):
                    continue
                config = parse_json(read_document(os.path.join(folder, entry, "snapshots", commit, HUB_CONFIG)))
                if isinstance(config, dict) and any(str(kind).endswith(_KIND) for kind in config.get("architectures") or ()):
                    yield entry.removeprefix("models--").replace("--", "/"), config
