# pyright: basic
"""Convolutions whose result does not depend on who computes them.

An entropy decoder must rebuild the encoder's probabilities to the last bit; one differing unit in the last place and
every later symbol is noise. Floating-point sums depend on their order, hence on thread count, batch size and library.
Here weights, biases and activations are rounded to fixed-point grids so narrow that every partial sum is an integer
multiple of 2^-(WEIGHT_BITS+ACTIVATION_BITS) below 2^53 of them, which float64 holds exactly: the order cannot matter.
(The idea of integer networks for this purpose: Balle, Johnston, Minnen 2019, "Integer Networks for Data Compression".)

Conventions: tensors are N x C x H x W; inputs and outputs are float64 on the activation grid.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

ACTIVATION_BITS = 10  # activations are multiples of 2^-10 ...
ACTIVATION_MAX = 2.0**10  # ... within +-1024: 21 bits with sign
WEIGHT_BITS = 12  # weights are multiples of 2^-12 ...
WEIGHT_MAX = 2.0**3  # ... within +-8: 16 bits with sign; 21 + 16 leaves 16 bits, 65,536 addends, before 2^53


def to_grid(x: Tensor) -> Tensor:
    """Round to the activation grid: float64, multiples of 2^-10 within +-1024."""
    step = 2.0**ACTIVATION_BITS
    return (x.double() * step).round_().clamp_(-ACTIVATION_MAX * step, ACTIVATION_MAX * step).div_(step)


def run(net: nn.Module, x: Tensor) -> Tensor:
    """Apply convolutions, transposed convolutions and ReLUs exactly. `x` must lie on the activation grid.

    Raises TypeError for a layer that has no exact form.
    """
    layers = net if isinstance(net, nn.Sequential) else [net]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            x = to_grid(_exact_copy(layer)(x))
        elif isinstance(layer, nn.ReLU):
            x = x.clamp(min=0)
        else:
            raise TypeError(f"no exact form of {type(layer).__name__}")
    return x


def _exact_copy(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """The layer in float64 with weights on their grid, made once per weight version and kept beside the layer."""
    changes = 0 if layer.weight.is_inference() else layer.weight._version
    version = (changes, layer.weight.data_ptr())
    cached = layer.__dict__.get("_exact")
    if cached is not None and cached[0] == version:
        return cached[1]
    kind = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.ConvTranspose2d
    arguments: dict[str, Any] = dict(stride=layer.stride, padding=layer.padding, dtype=torch.float64)
    if isinstance(layer, nn.ConvTranspose2d):
        arguments["output_padding"] = layer.output_padding
    copy: Any = kind(layer.in_channels, layer.out_channels, cast(Any, layer.kernel_size), **arguments)
    mask = getattr(layer, "mask", None)
    weight = layer.weight if mask is None else layer.weight * mask
    step = 2.0**WEIGHT_BITS
    with torch.no_grad():
        grid = (weight.double().cpu() * step).round().clamp(-WEIGHT_MAX * step, WEIGHT_MAX * step) / step
        copy.weight.copy_(grid)
        copy.bias.copy_(to_grid(cast(torch.Tensor, layer.bias).cpu()))
    copy.requires_grad_(False)
    layer.__dict__["_exact"] = (version, copy)  # not a submodule: stays out of the state dict
    return copy
