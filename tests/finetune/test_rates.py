"""Tests of edgetl/finetune/rates.py."""

from __future__ import annotations

import pytest
import torch

from edgetl.finetune.rates import SCHEDULES

DONE = [step / 100 for step in range(101)]


@pytest.mark.parametrize(("name", "top"), [("cosine", 10), ("one-cycle", 30)])
def test_it_rises_to_the_full_rate_and_falls_to_next_to_nothing(name: str, top: int) -> None:
    rates = [SCHEDULES[name](done) for done in DONE]
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert max(rates) == rates[top] == pytest.approx(1.0)
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 <= rates[-1] < 0.001
    assert 0 < rates[0] < 0.05


def test_one_cycle_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=101, pct_start=0.3, final_div_factor=400, cycle_momentum=False
    )
    rates = []
    for _ in DONE:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step() if len(rates) < 101 else None
    # torch's peak lies a step earlier or later by how it counts.
    assert [SCHEDULES["one-cycle"](done) for done in DONE] == pytest.approx(rates, abs=0.06)
