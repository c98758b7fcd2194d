"""What every channel of a layer contributes to a logit."""

from __future__ import annotations

from torch import Tensor


def channel_contributions(activations: Tensor, gradients: Tensor) -> Tensor:
    """The contribution of each channel to a score: gradient times activation, summed over the cells. (B, C, h, w) x2 -> (B, C).

    ``gradients``: of the score for ``activations``. The contributions are in units of the score. Those of all channels add up to
    the sum of the HiResCAM map.

    If the gradient of a channel is the same in all cells, as it is before pooling and one linear layer, its contribution is its
    mean gradient times its mean activation times the number of cells. The contributions then add up to the logit minus the bias
    (Neuhaus et al. 2023, eq. 2). The sum over cells also adds up where a ReLU is between the layer and the pooling, as in DenseNet;
    the product of the two means does not.
    """
    return (gradients * activations).sum(dim=(2, 3))
