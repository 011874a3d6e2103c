"""Attention in short rows by plain products: the same numbers and gradients as torch's own kernel."""

from __future__ import annotations

import pytest
import torch

from zhixing.layers import attention


@pytest.mark.parametrize("tokens", [2, 7, 64, 128, 200, 256])  # within one block, at its end, in two
def test_short_attention_equals_torch(tokens: int) -> None:
    torch.manual_seed(tokens)
    queries, keys, values = (torch.randn(3, heads, tokens, 8, requires_grad=True) for heads in (4, 2, 2))
    wanted = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
    found = attention.attend_short(queries, keys, values)
    assert torch.allclose(found, wanted, atol=2e-6)
    weights = torch.randn_like(wanted)
    for mine, theirs in zip(
        torch.autograd.grad(found, (queries, keys, values), weights),
        torch.autograd.grad(wanted, (queries, keys, values), weights),
        strict=True,
    ):
        assert torch.allclose(mine, theirs, atol=1e-5)
    short = attention.attend(*(each.detach().bfloat16() for each in (queries, keys, values)), None)
    assert torch.allclose(short.float(), wanted, atol=0.03)
