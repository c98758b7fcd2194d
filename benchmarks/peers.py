"""Grad-CAM by grad-cam, torchcam and captum, each as its own documentation shows it, inside camcli's processes and files.

A peer takes the place of camcli's engine and nothing else: reading, decoding, painting and writing are the same code for all.
Each explains the best class of every image of a batch, in float32, with a model whose parameters record gradients, as a freshly
loaded model's do and as all three need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from camcli.network.inputs import input_tensor
from camcli.pipeline import stages
from camcli.pipeline.engine import Engine
from camcli.pipeline.findings import BatchFindings, batch_findings, joined
from camcli.pipeline.job import Job
from camcli.records import Findings

Explain = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Inputs (B, 3, H, W) -> logits (B, K), and the map of each image's best class (B, h, w)."""


@contextmanager
def grad_cam(module: nn.Module, layer: str) -> Iterator[Explain]:
    """Explains by grad-cam. Without targets it takes each image's best class from its own single pass, its cheapest right way.

    One target given for a whole batch would explain the first image only. Its maps come enlarged to the size of the input.
    """
    from pytorch_grad_cam import GradCAM

    with GradCAM(model=module, target_layers=[module.get_submodule(layer)]) as extractor:

        def explain(inputs: Tensor) -> tuple[Tensor, Tensor]:
            maps = extractor(input_tensor=inputs, targets=None)
            return extractor.outputs.detach(), torch.from_numpy(maps)

        yield explain
    module.zero_grad()  # what it wrote into the parameters' .grad


@contextmanager
def torchcam(module: nn.Module, layer: str) -> Iterator[Explain]:
    """Explains by torchcam: one pass, then its extractor with a list of classes. Maps of the layer's own size."""
    from torchcam.methods import GradCAM

    with GradCAM(module, layer) as extractor:

        def explain(inputs: Tensor) -> tuple[Tensor, Tensor]:
            scores = module(inputs)
            (maps,) = extractor(scores.argmax(dim=1).tolist(), scores, normalized=False)
            return scores.detach(), maps

        yield explain


@contextmanager
def captum(module: nn.Module, layer: str) -> Iterator[Explain]:
    """Explains by captum, which wants the classes beforehand: a pass to find them, then its own. Maps of the layer's own size."""
    from captum.attr import LayerGradCam

    extractor = LayerGradCam(module, module.get_submodule(layer))

    def explain(inputs: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            logits = module(inputs)
        maps = extractor.attribute(inputs, target=logits.argmax(dim=1), relu_attributions=True)
        return logits, maps[:, 0].detach()

    yield explain


PEERS: dict[str, Callable[[nn.Module, str], AbstractContextManager[Explain]]] = {
    "grad-cam": grad_cam,
    "torchcam": torchcam,
    "captum": captum,
}
"""Distribution name -> (module, layer's name) -> context manager; the hooks are gone after it."""


class PeerEngine:
    """``camcli.pipeline.stages.Engine`` with the network's part done by a peer; its parts are findings that are already there."""

    def __init__(self, job: Job, explain: Explain) -> None:
        self._job, self._explain = job, explain

    def explain(
        self, inputs: Sequence[np.ndarray], labels: Sequence[int | None] | None = None, names: Sequence[str] | None = None
    ) -> list[BatchFindings]:
        """The findings of ``inputs``, each (h, w, 3) uint8. ``labels`` and ``names`` are of no use to it."""
        # contiguous: camcli's inputs are channels-last, which would turn the peer's whole network into that
        scores, maps = self._explain(input_tensor(inputs, self._job.model.preprocess, self._job.device).contiguous())
        logits, order = scores.cpu().numpy(), scores.argsort(dim=1, descending=True).cpu().numpy()
        probabilities = scores.double().softmax(dim=1).cpu().numpy()
        return [batch_findings(logits, probabilities, order[:, :1], order, [maps.float().cpu().numpy()[:, None]])]

    def collect(self, parts: Sequence[BatchFindings]) -> BatchFindings | None:
        """The findings of the images of ``parts``, in order."""
        return joined(parts) if parts else None


def taking_the_engines_place(engine: PeerEngine) -> AbstractContextManager[object]:
    """Inside, ``explain_images`` works with ``engine``."""
    return patch.object(stages, "Engine", lambda job, before_pass: engine)


def least_agreement(job: Job, peer: PeerEngine, inputs: Sequence[np.ndarray]) -> float:
    """The smallest correlation of the peer's map with camcli's over ``inputs``; 0 where the two explain different classes.

    Correlation, because a peer may stretch its map to [0, 1]; the smaller map is enlarged to the size of the larger.
    """
    engine = Engine(job)
    ours, theirs = engine.collect(engine.explain(inputs)), peer.collect(peer.explain(inputs))
    assert ours is not None
    assert theirs is not None
    pairs = zip(ours.each(job.names), theirs.each(job.names), strict=True)
    return min(_correlation(one, other) for one, other in pairs)


def _correlation(ours: Findings, theirs: Findings) -> float:
    if ours.best.class_index != theirs.best.class_index:
        return 0.0
    first, second = (torch.from_numpy(found.heatmaps[0].values).float().relu()[None, None] for found in (ours, theirs))
    if first.shape != second.shape:
        first = nn.functional.interpolate(first, size=second.shape[2:], mode="bilinear", align_corners=False)
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])
