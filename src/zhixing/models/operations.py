"""What each operation that a model was taken apart into means, said in NumPy (`graph`).

Source of the meanings: PyTorch's documentation of the core ATen operator set; `recurrence` is ours. Leaves out: what no model of ours is
made of.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zhixing.core.errors import DataError

MOST_NUMBERS = 1 << 28  # of an array that is made from nothing
AT_ONCE = 1 << 22  # numbers that are laid out for one product of a convolution


def error_function(x: np.ndarray) -> np.ndarray:
    """Give erf, to 5e-7, of (...) float32. Source: Abramowitz and Stegun 1964, 7.1.26."""
    size = np.abs(x)
    t = size * np.float32(0.3275911)
    t += 1
    np.reciprocal(t, out=t)
    found = t * np.float32(1.061405429)
    for each in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        found += each
        found *= t
    np.square(size, out=size)
    found *= np.exp(np.negative(size, out=size), out=size)
    return np.copysign(np.subtract(1, found, out=found), x, out=found)


def gelu(x: np.ndarray, approximate: str = "none") -> np.ndarray:
    """Give x times the share of a normal distribution below x; by its hyperbolic tangent where the model is so."""
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(np.float32(0.7978845608028654) * (x + np.float32(0.044715) * x * x * x)))
    found = error_function(x * np.float32(0.7071067811865476))
    found += 1
    found *= x
    found *= np.float32(0.5)
    return found


def softmax(x: np.ndarray, dim: int, half: bool = False) -> np.ndarray:
    """Give exp x over its sum along an axis."""
    found = np.exp(x - x.max(axis=dim, keepdims=True))
    return found / found.sum(axis=dim, keepdims=True)


def layer_norm(
    x: np.ndarray, shape: Sequence[int], weight: np.ndarray | None, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, ...]:
    """Give (x - mean) / deviation over the last axes, scaled and shifted."""
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    middle = x - x.mean(axis=axes, keepdims=True)
    found = middle / np.sqrt(np.square(middle).mean(axis=axes, keepdims=True) + np.float32(eps))
    found = found if weight is None else found * weight
    return (found if bias is None else found + bias,)


def group_norm(
    x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, B: int, C: int, places: int, groups: int, eps: float
) -> tuple[np.ndarray, ...]:
    """Give (x - mean) / deviation over the channels of a group and all their places, scaled and shifted: x (B, C, ...)."""
    middle = x.reshape(B, groups, -1)
    middle = middle - middle.mean(axis=2, keepdims=True)
    found = (middle / np.sqrt(np.square(middle).mean(axis=2, keepdims=True) + np.float32(eps))).reshape(x.shape)
    across = (slice(None), *[None] * (x.ndim - 2))
    found = found if weight is None else found * weight[across]
    return (found if bias is None else found + bias[across],)


def sort(x: np.ndarray, *, stable: bool = True, dim: int = -1, descending: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Give an array in order along an axis, equal ones as they came, and where each came from."""
    if descending:  # the last of equal ones first, of what is turned around, and turned around again
        order = x.shape[dim] - 1 - np.flip(np.argsort(np.flip(x, dim), axis=dim, kind="stable"), dim)
    else:
        order = np.argsort(x, axis=dim, kind="stable")
    return np.take_along_axis(x, order, dim), order


def cut(x: np.ndarray, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> np.ndarray:
    """Give a stretch of an axis."""
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, None if end is None or end > x.shape[dim] else end, step)
    return x[tuple(index)]


def pick(x: np.ndarray, dim: int, index: int) -> np.ndarray:
    """Give one place of an axis."""
    return np.take(x, index, axis=dim)


def fill_up(x: np.ndarray, pads: Sequence[int], value: float = 0.0) -> np.ndarray:
    """Put a value around an array, from its last axis on: before and after each."""
    widths = [(0, 0)] * x.ndim
    for number in range(len(pads) // 2):
        widths[x.ndim - 1 - number] = (pads[2 * number], pads[2 * number + 1])
    small(math.prod(float(have + before + after) for have, (before, after) in zip(x.shape, widths, strict=True)))
    return np.pad(x, widths, constant_values=value)


def convolution(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    turned: bool,
    beside: Sequence[int],
    groups: int,
) -> np.ndarray:
    """Give the correlation of rows along one axis or two: x (B, C, Y, X), weight (E, C / groups, K, K'), to (B, E, Y', X')."""
    axes = weight.ndim - 2
    if min(groups, *stride, *dilation) < 1 or min(padding) < 0:
        raise ValueError("groups, steps or padding that cannot be")
    if turned or axes not in (1, 2):
        raise DataError("graph.operation", name="convolution", problem="of more than two axes, or transposed")
    if axes == 1:  # as a picture of one line
        more = [[0, *padding], [1, *stride], [1, *dilation]]
        return convolution(x[:, :, None], weight[:, :, None], bias, more[1], more[0], more[2], turned, beside, groups)[:, :, 0]
    small(math.prod((*map(float, x.shape[:2]), *(float(have + 2 * more) for have, more in zip(x.shape[2:], padding, strict=True)))))
    x = np.pad(x, ((0, 0), (0, 0), *((each, each) for each in padding)))
    sizes = [(each - 1) * apart + 1 for each, apart in zip(weight.shape[2:], dilation, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, sizes, axis=(2, 3))  # (B, C, Y', X', K, K')
    windows = windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    B, C, Y, X = windows.shape[:4]
    small(float(B) * len(weight) * Y * X)
    found = np.empty((B, len(weight), Y, X), np.result_type(x, weight))
    if groups == C == len(weight):  # each channel on its own
        np.einsum("bcyxkl,ckl->bcyx", windows, weight[:, 0], out=found)
    else:
        own, made, once = C // groups, len(weight) // groups, max(1, AT_ONCE // max(1, math.prod(windows.shape[1:])))
        for group, row in itertools.product(range(groups), range(0, B, once)):  # no more windows at once than fit into little memory
            flat = windows[row : row + once, group * own : (group + 1) * own].transpose(0, 2, 3, 1, 4, 5)
            matrix = weight[group * made : (group + 1) * made].reshape(made, -1)
            some = flat.reshape(-1, matrix.shape[1]) @ matrix.T
            found[row : row + once, group * made : (group + 1) * made] = some.reshape(-1, Y, X, made).transpose(0, 3, 1, 2)
    return found if bias is None else found + bias[:, None, None]


def along(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Make of NumPy's reduction torch's: axes, whether they stay, and a type."""

    def reduced(x: np.ndarray, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> np.ndarray:
        axes = None if dim is None or dim == [] else tuple(dim) if isinstance(dim, list) else dim
        found = function(x, axis=axes, keepdims=keepdim)
        return found if dtype is None else found.astype(dtype)

    return reduced


def norm(x: np.ndarray, order: float = 2, dim: Any = None, keepdim: bool = False) -> np.ndarray:
    """Give the Euclidean length along axes."""
    if order != 2:
        raise DataError("graph.operation", name="linalg_vector_norm", problem=f"of order {order}")
    return np.sqrt(along(np.sum)(np.square(x), dim, keepdim))


def scaled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make of a sum or a difference torch's, whose second part may be scaled; a number of Python's takes the array's type."""

    def summed(x: Any, y: Any, alpha: float = 1) -> Any:
        return function(x, y if alpha == 1 else y * alpha)

    return summed


def small(count: float) -> None:
    """Raise ValueError for an array that no row of a text asks for."""
    if not count <= MOST_NUMBERS:
        raise ValueError(f"an array of {count:.3g} numbers")


def filled(shape: Sequence[int], value: Any, dtype: Any = None) -> np.ndarray:
    """Give an array of one value."""
    small(math.prod(float(each) for each in shape))
    return np.full(shape, value, dtype or (np.bool_ if isinstance(value, bool) else np.int64 if isinstance(value, int) else np.float32))


def counted(start: Any, end: Any, step: Any = 1, dtype: Any = None) -> np.ndarray:
    """Give the numbers from start to end."""
    small(abs((end - start) / step))
    return np.arange(start, end, step, dtype=dtype or np.int64)


def table(weight: np.ndarray, index: np.ndarray, *rest: Any) -> np.ndarray:
    """Give the rows of a table."""
    return weight[index]


def divided(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    """Divide; whole numbers become fractions, unless what is left over is to be dropped, downwards."""
    if rounding_mode not in (None, "floor"):
        raise ValueError(f"rounded by {rounding_mode!r}"[:40])
    found = np.true_divide(x, y) if rounding_mode is None else np.floor_divide(x, y)
    return found.astype(np.float32) if isinstance(found, np.ndarray) and found.dtype == np.float64 else found


def chosen(where: np.ndarray, x: Any, y: Any) -> np.ndarray:
    """Give x where there is truth and y elsewhere."""
    return np.where(where, x, y)


def joined(parts: Sequence[np.ndarray], dim: int = 0) -> np.ndarray:
    """Put arrays behind each other."""
    return np.concatenate(parts, axis=dim)


def same(x: Any, *rest: Any, **more: Any) -> Any:
    """Give what came."""
    return x


def cast(x: np.ndarray, dtype: Any = None, **more: Any) -> np.ndarray:
    """Give an array in another type."""
    return x if dtype is None else x.astype(dtype)


def spread(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Give an array repeated along axes where it has one place."""
    found = wide(x, shape)
    small(math.prod(float(each) for each in found))
    return np.broadcast_to(x, found)


def recurrence(x: np.ndarray, weights: Sequence[np.ndarray], cell: str) -> np.ndarray:
    """Give the states of recurrent layers, one after another, each beginning at zero: x (B, T, E) to (B, T, D).

    weights  of each layer: from input to gates, from state to gates, and the two biases, the gates in torch's order
    cell     "rnn" (Elman's, tanh), "gru" or "lstm"
    """
    small(math.prod(x.shape[:2]) * weights[1].shape[0])
    for inward, across, bias, beside in zip(*[iter(weights)] * 4, strict=True):
        B, T, D = *x.shape[:2], across.shape[1]
        given, state, kept = x @ inward.T + bias, np.zeros((B, D), x.dtype), np.zeros((B, D), x.dtype)  # (B, T, gates * D)
        states = np.empty((B, T, D), x.dtype)
        for step in range(T):
            now, before = given[:, step], state @ across.T + beside  # (B, gates * D)
            if cell == "rnn":
                state = np.tanh(now + before)
            elif cell == "gru":
                (r, z, n), (hr, hz, hn) = np.split(now, 3, 1), np.split(before, 3, 1)
                z = sigmoid(z + hz)
                state = (1 - z) * np.tanh(n + sigmoid(r + hr) * hn) + z * state
            elif cell == "lstm":
                i, f, g, o = np.split(now + before, 4, 1)
                kept = sigmoid(f) * kept + sigmoid(i) * np.tanh(g)
                state = sigmoid(o) * np.tanh(kept)
            else:
                raise DataError("graph.operation", name="recurrence", problem=f"of cells '{cell}'"[:80])
            states[:, step] = state
        x = states
    return x


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Give 1 / (1 + exp -x)."""
    return 1 / (1 + np.exp(-np.clip(x, -87, 87)))


def scattered(x: np.ndarray, dim: int, index: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Add numbers to rows of an array (B, C) at the places that an index names, in its order."""
    if x.ndim != 2 or dim not in (1, -1):
        raise DataError("graph.operation", name="scatter_add", problem="of another axis than a row's")
    found = np.array(x)
    np.add.at(found, (np.arange(len(index))[:, None], index), source)
    return found


OPERATIONS: dict[str, Callable[..., Any]] = {
    "getitem": operator.getitem,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "fmod.Scalar": np.fmod,
    "remainder.Scalar": np.mod,
    "sym_size.int": lambda x, dim: int(x.shape[dim]),
    "add.Tensor": scaled(operator.add),
    "add.Scalar": scaled(operator.add),
    "sub.Tensor": scaled(operator.sub),
    "sub.Scalar": scaled(operator.sub),
    "rsub.Scalar": lambda x, y, alpha=1: y - x * alpha,
    "mul.Tensor": operator.mul,
    "mul.Scalar": operator.mul,
    "div.Tensor": divided,
    "div.Scalar": divided,
    "div.Tensor_mode": divided,
    "neg.default": operator.neg,
    "pow.Tensor_Scalar": lambda x, y: np.square(x) if y == 2 else np.power(x, np.float32(y)),
    "pow.Scalar": lambda x, y: np.power(np.float32(x), y),
    "rsqrt.default": lambda x: 1 / np.sqrt(x),
    "sqrt.default": np.sqrt,
    "exp.default": np.exp,
    "log.default": np.log,
    "log1p.default": np.log1p,
    "sin.default": np.sin,
    "cos.default": np.cos,
    "tanh.default": np.tanh,
    "sigmoid.default": sigmoid,
    "relu.default": lambda x: np.maximum(x, 0),
    "gelu.default": gelu,
    "abs.default": np.abs,
    "maximum.default": np.maximum,
    "minimum.default": np.minimum,
    "clamp_min.default": np.maximum,
    "clamp_max.default": np.minimum,
    "clamp.default": lambda x, low=None, high=None: np.clip(x, low, high),
    "reciprocal.default": lambda x: 1 / x,
    "lt.Tensor": operator.lt,
    "lt.Scalar": operator.lt,
    "le.Tensor": operator.le,
    "le.Scalar": operator.le,
    "gt.Tensor": operator.gt,
    "gt.Scalar": operator.gt,
    "ge.Tensor": operator.ge,
    "ge.Scalar": operator.ge,
    "eq.Tensor": operator.eq,
    "eq.Scalar": operator.eq,
    "ne.Tensor": operator.ne,
    "ne.Scalar": operator.ne,
    "logical_not.default": np.logical_not,
    "logical_and.default": np.logical_and,
    "logical_or.default": np.logical_or,
    "bitwise_not.default": operator.invert,
    "bitwise_and.Tensor": operator.and_,
    "bitwise_or.Tensor": operator.or_,
    "bitwise_xor.Tensor": operator.xor,
    "__rshift__.Scalar": operator.rshift,
    "where.self": chosen,
    "any.dim": along(np.any),
    "sum.dim_IntList": along(np.sum),
    "mean.dim": along(np.mean),
    "amax.default": along(np.max),
    "amin.default": along(np.min),
    "cumsum.default": lambda x, dim, dtype=None: np.cumsum(x, axis=dim, dtype=dtype),
    "linalg_vector_norm.default": norm,
    "_softmax.default": softmax,
    "native_layer_norm.default": layer_norm,
    "native_group_norm.default": group_norm,
    "sort.stable": sort,
    "mm.default": np.matmul,
    "bmm.default": np.matmul,
    "addmm.default": lambda bias, x, y: x @ y + bias,
    "convolution.default": convolution,
    "embedding.default": table,
    "arange.start_step": counted,
    "full.default": filled,
    "full_like.default": lambda x, value, dtype=None: np.full_like(x, value, dtype=dtype),
    "scalar_tensor.default": lambda value, dtype=None: np.asarray(value, dtype or np.float32),
    "unsqueeze.default": np.expand_dims,
    "squeeze.dim": lambda x, dim: np.squeeze(x, dim) if x.shape[dim] == 1 else x,
    "squeeze.dims": lambda x, dims: np.squeeze(x, tuple(each for each in dims if x.shape[each] == 1)),
    "view.default": np.reshape,
    "permute.default": np.transpose,
    "expand.default": spread,
    "select.int": pick,
    "slice.Tensor": cut,
    "cat.default": joined,
    "constant_pad_nd.default": fill_up,
    "index_select.default": lambda x, dim, index: np.take(x, index, axis=dim),
    "gather.default": lambda x, dim, index: np.take_along_axis(x, index, dim),
    "index.Tensor": lambda x, places: x[tuple(slice(None) if each is None else each for each in places)],
    "scatter_add.default": scattered,
    "flip.default": np.flip,
    "zhixing.recurrence.default": recurrence,
    "clone.default": same,
    "alias.default": same,
    "_to_copy.default": cast,
    "_assert_tensor_metadata.default": same,
}


def wide(x: np.ndarray, shape: Sequence[int]) -> list[int]:
    """Give the shape that an array is spread to; -1 is what it has."""
    own = (1,) * (len(shape) - x.ndim) + x.shape
    return [have if want == -1 else want for have, want in zip(own, shape, strict=True)]
