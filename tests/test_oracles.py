"""A part of the oracle suite (see tests/oracles.py), small enough for every run."""

from __future__ import annotations

import pytest

from tests import oracles


@pytest.mark.parametrize(
    "name", [*oracles.SMALL, *(pytest.param(name, marks=pytest.mark.zoo) for name in ("mobilenet_v2", "convnext_tiny"))]
)
def test_methods_agree_with_their_oracles(name):
    rows = list(oracles.compare(name))
    assert len(rows) >= 15
    assert {row.method for row in rows} >= set(oracles.ORACLES) - {"cam", "scorecam", "ablationcam"} or name == "swin_t"
    assert [row for row in rows if not row.agrees] == []


def test_every_torchvision_family_has_a_row():
    from torchvision import models

    def family(name):
        return name.split("_")[0].rstrip("0123456789") if not name.startswith("swin_v2") else "swin_v2"

    missing = {family(name) for name in models.list_models(module=models)} - {family(name) for name in oracles.FAMILIES}
    assert not {name for name in missing if name != "wide"}, missing
