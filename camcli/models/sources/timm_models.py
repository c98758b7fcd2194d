"""timm's models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from camcli.errors import ModelError, WeightsError, did_you_mean
from camcli.models.labels import IMAGENET_SIZE, default_labels, imagenet_labels
from camcli.models.request import ModelInfo, ModelRequest
from camcli.models.source_text import imagenet_names, registered_models
from camcli.models.sources import ModelSource, register_source
from camcli.records import LoadedModel

if TYPE_CHECKING:
    from torch import nn


@register_source
class TimmSource(ModelSource):
    """timm's models, as ``timm/NAME``."""

    name = "timm"
    priority = 30
    prefix = "timm/"
    packages = ("timm",)
    listed_by_default = False  # more than a thousand
    hint = "timm's models: camcli models 'timm/*'."

    def owns(self, name: str) -> bool:
        """Whether ``name`` begins with ``timm/``."""
        return name.startswith(self.prefix)

    def load(self, request: ModelRequest) -> LoadedModel:
        """The architecture with timm's pretrained, a checkpoint's or random weights. Raises ModelError, WeightsError."""
        import timm

        from camcli.models.build import as_module, with_weights
        from camcli.models.channels import for_channels
        from camcli.models.checkpoints import build_meta
        from camcli.models.download import explain_download_failure, hub_without_retries
        from camcli.models.preprocess import preprocess_of_timm

        name = self._checked(request)
        if request.random or request.checkpoint:

            def build(**options: Any) -> nn.Module:
                return as_module(timm.create_model(name, pretrained=False, **options))

            preprocess = preprocess_of_timm(build_meta(build))
            model = with_weights(request, build, preprocess, ("DEFAULT",))
            return replace(model, preprocess=for_channels(preprocess_of_timm(model.module), model.preprocess.channels))
        if request.weights != "DEFAULT":
            raise WeightsError(
                f"--weights {request.weights!r}: timm's weights are chosen by the tag in the name, as in "
                f"timm/{name}.TAG; see camcli models '{request.name.split('.')[0]}*'."
            )
        config = timm.get_pretrained_cfg(name)
        if config is None or not config.has_weights:
            raise WeightsError(
                f"timm publishes no weights for {name!r}. Give a checkpoint with --weights FILE, or take random weights with "
                f"--weights none.{did_you_mean(name, timm.list_models(pretrained=True))}"
            )
        why_not = ""
        try:
            hub = hub_without_retries() if config.hf_hub_id else contextlib.nullcontext("")
            with _quiet_hub(not request.show_progress), hub as why_not:
                module = timm.create_model(name, pretrained=True)
        except Exception as error:
            where = config.hf_hub_id or config.url
            reason = ConnectionError(why_not) if why_not else error
            raise explain_download_failure(request.name, str(where), reason, hub=bool(config.hf_hub_id)) from error
        return LoadedModel(
            request.name,
            module,
            preprocess_of_timm(module),
            _timm_labels(module),
            f"timm {config.architecture}.{config.tag}" if config.tag else f"timm {name}",
        )

    def _checked(self, request: ModelRequest) -> str:
        import timm

        name = request.name.removeprefix(self.prefix)
        try:
            known = timm.is_model(name)
        except Exception:  # a malformed name
            known = False
        if not known:
            names = [self.prefix + known for known in timm.list_models()]
            raise ModelError(f"timm has no model {name!r}.{did_you_mean(request.name, names)} See them all: camcli models 'timm/*'")
        return name

    def list(self) -> Iterator[ModelInfo]:
        """Every architecture; what only an instance could tell is left out."""
        import timm

        from camcli.models.download import is_cached

        for name in timm.list_models():
            config = timm.get_pretrained_cfg(name)
            size = (config.input_size[1], config.input_size[2]) if config is not None else None
            cached = config is not None and config.hf_hub_id is not None and is_cached(config.hf_hub_id, hub=True)
            yield ModelInfo(self.prefix + name, self.name, None, size, None, cached)

    def labels(self, request: ModelRequest) -> tuple[str, ...]:
        """The names of ImageNet or of another data set that timm knows; for a checkpoint, names for the size of its head."""
        import timm

        from camcli.models.build import as_module
        from camcli.models.checkpoints import build_meta

        name = self._checked(request)
        if request.checkpoint:
            return self.load(request).classes
        return _timm_labels(build_meta(lambda **options: as_module(timm.create_model(name, pretrained=False, **options))))

    def complete_names(self) -> Iterable[str]:
        """The models that timm's source registers."""
        return (self.prefix + name for name in registered_models("timm"))

    def complete_classes(self, name: str) -> Sequence[str] | None:
        """ImageNet's, which most of timm's models have."""
        return imagenet_names() if self.owns(name) else None


def _timm_labels(module: nn.Module) -> tuple[str, ...]:
    """The class names of the data set on which the model was trained, if timm knows them."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    from camcli.models.build import class_count

    count = class_count(module)
    if count == IMAGENET_SIZE:
        return imagenet_labels()
    subset = infer_imagenet_subset(module)
    if subset:
        info = ImageNetInfo(subset)
        if info.num_classes() == count:
            return tuple(info.index_to_description(index).split(",")[0] for index in range(count))
    return default_labels(count)


@contextlib.contextmanager
def _quiet_hub(quiet: bool) -> Iterator[None]:
    """Inside, the hub shows no progress bars if ``quiet``."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    try:
        if quiet:
            disable_progress_bars()
        yield
    finally:
        if quiet and not before:
            enable_progress_bars()
