"""Dropout and the activations that have a faster kernel in training."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import vmap

from zhixing.layers.activations import gelu_new
from zhixing.layers.dropout import Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_so_many_numbers_are_dropped_and_the_mean_stays(dtype: torch.dtype, share: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 501, dtype=dtype)
    made = Dropout(share)(x).float()
    spread = (share * (1 - share) / x.numel()) ** 0.5
    assert abs(float((made == 0).float().mean()) - share) < 5 * spread + 2**-16
    assert float(made.mean()) == pytest.approx(1, abs=0.02)
    assert made[made != 0].unique().tolist() == pytest.approx([1 / (1 - share)], rel=0.01)
    rows, columns = (made == 0).float().mean(1), (made == 0).float().mean(0)  # no row or column is like another, none is left out
    assert float(rows.std()) == pytest.approx((share * (1 - share) / 501) ** 0.5, rel=0.2)
    assert float(columns.std()) == pytest.approx((share * (1 - share) / 400) ** 0.5, rel=0.2)


def test_what_is_dropped_follows_from_torch_s_seed_and_is_new_each_time() -> None:
    x, layer = torch.ones(1000), Dropout(0.5)
    torch.manual_seed(1)
    first, second = layer(x), layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first) and torch.equal(layer(x), second) and not torch.equal(first, second)


def test_gradients_go_where_numbers_stayed() -> None:
    x = torch.randn(3, 7, 5).transpose(0, 2).requires_grad_()
    made = Dropout(0.3)(x)
    made.sum().backward()
    assert made.shape == x.shape and torch.allclose(x.grad * x, made) and {0.0} < set(x.grad.flatten().tolist())


def test_where_nothing_or_all_is_to_be_dropped_it_is_torch_s_own() -> None:
    x = torch.randn(50)
    assert Dropout(0.0)(x) is x or torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(50)) and torch.equal(Dropout(0.5).eval()(x), x)
    assert isinstance(Dropout(0.5), nn.Dropout) and Dropout(0.5)(torch.empty(0, 4)).shape == (0, 4)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(1.5)


def test_each_row_of_vmap_has_its_own() -> None:
    made = vmap(Dropout(0.5), randomness="different")(torch.ones(4, 200))
    assert len({tuple(row) for row in made.tolist()}) == 4


def test_the_gelu_of_training_in_bf16_is_as_near_as_its_rounding() -> None:
    x = torch.linspace(-6, 6, 10_001).bfloat16()
    exact = nn.functional.gelu(x.double(), approximate="tanh")
    trained, read = gelu_new(x.clone().requires_grad_()).double(), None
    with torch.no_grad():
        read = gelu_new(x).double()
        assert torch.equal(gelu_new(x.float()), nn.functional.gelu(x.float(), approximate="tanh"))
    rounding = 2**-8 * exact.abs()
    assert bool(((trained - exact).abs() <= rounding + 5e-4).all()) and bool(((read - exact).abs() <= rounding + 1e-5).all())
    assert torch.equal(gelu_new(x.float().requires_grad_()).detach(), nn.functional.gelu(x.float(), approximate="tanh"))
