"""What several methods and targets cost in network time, as a ratio to Grad-CAM of the best class, in one run.

    python benchmarks/methods.py [--model resnet50] [--rounds 5]

The variants alternate, so that a machine that slows down slows all of them; the median of each is compared.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from camcli.cam.explain import explain_batch, top_classes
from camcli.models.layers import resolve_layers
from camcli.models.request import ModelRequest
from camcli.models.sources import load_model

VARIANTS = {
    "forward pass alone": ((), 0),
    "gradcam, top-1": (("gradcam",), 1),
    "gradcam, top-5": (("gradcam",), 5),
    "gradcam + layercam + hirescam, top-1": (("gradcam", "layercam", "hirescam"), 1),
    "gradcam + layercam + hirescam, top-5": (("gradcam", "layercam", "hirescam"), 5),
}


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model = load_model(ModelRequest(arguments.model, "none"))
    layers = resolve_layers(model, ())
    inputs = torch.randn(arguments.batch, 3, *model.preprocess.crop)

    def once(methods: tuple[str, ...], count: int) -> float:
        begun = time.perf_counter()
        if methods:
            explain_batch(model.module, inputs, layers, methods, lambda logits: top_classes(logits, count))
        else:
            with torch.no_grad():
                model.module(inputs)
        return time.perf_counter() - begun

    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for round_number in range(arguments.rounds + 1):
        for name, (methods, count) in VARIANTS.items():
            taken = once(methods, count)
            if round_number:  # the first warms up
                seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians["gradcam, top-1"]
    threads = torch.get_num_threads()
    print(f"{arguments.model} at {layers[0].name}, batch {arguments.batch}, {threads} threads, torch {torch.__version__}")
    for name, median in medians.items():
        print(f"{name:40s} {median * 1000 / arguments.batch:8.1f} ms an image   {median / base:5.2f} x gradcam top-1")


if __name__ == "__main__":
    main()
