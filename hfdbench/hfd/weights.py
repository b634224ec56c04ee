# pyright: basic
"""Read models back from safetensors: tensors and the metadata that says how to build them."""

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from hfdbench.hfd.autoencoder import Autoencoder, AutoencoderConfig
from hfdbench.hfd.decoder import Decoder, Sampling
from hfdbench.hfd.lapped import LappedAutoencoder
from hfdbench.hfd.network import NetworkConfig

C = TypeVar("C", AutoencoderConfig, NetworkConfig, Sampling)


@dataclass(frozen=True)
class Model:
    """module, in evaluation mode; id: first four bytes of the file's sha256; metadata of the file."""

    module: Any
    id: bytes
    metadata: dict[str, str]


def build(config: AutoencoderConfig) -> Autoencoder:
    """A new autoencoder of the architecture that the config names. Raises ValueError for an unknown one."""
    kinds = {"elic": Autoencoder, "lapped": LappedAutoencoder}
    if config.architecture not in kinds:
        raise ValueError(f'unknown architecture "{config.architecture}"; there are {", ".join(kinds)}')
    return kinds[config.architecture](config)


def read_autoencoder(path: Path) -> Model:
    return _read(path, lambda config: build(configured(AutoencoderConfig, config)))


def read_decoder(path: Path) -> Model:
    return _read(path, lambda config: Decoder(configured(NetworkConfig, config)))


def configured(kind: type[C], values: dict) -> C:
    """A frozen config from JSON or TOML values, whose lists are its tuples. Raises ValueError for an unknown key."""
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            raise ValueError(f'unknown option "{key}"; there are {", ".join(known)}')
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    return kind(**arguments)


def _read(path: Path, build) -> Model:
    """Raises ValueError naming the file when it is not a model of this kind."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        module = build(json.loads(metadata["config"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not weights of this model: {error}; restore the file") from None
    load_into(module, path)
    if isinstance(module, Autoencoder):
        try:
            module.check_tables()
        except ValueError as error:
            raise ValueError(f"{path}: not weights of this model: {error}; restore the file") from None
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    return Model(module.eval().requires_grad_(False), digest[:4], metadata)


def pack(state: dict[str, torch.Tensor], stored: str) -> dict[str, torch.Tensor]:
    """What is written of a state: "float16", or "int8" with a step (float16) for each output channel of a convolution.

    Single numbers stay as they are: they are bounds such as 1e-9, which half precision would round to 0.
    """
    tensors = {}
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        if stored == "int8" and value.dtype == torch.float32 and value.ndim == 4:
            step = (value.abs().amax((1, 2, 3)) / 127).clamp_min(1e-7).half()
            tensors[f"{name}.step"] = step
            value = (value / step.float()[:, None, None, None]).round().clamp(-127, 127).to(torch.int8)
        tensors[name] = value.half() if value.dtype == torch.float32 and value.numel() > 1 else value
    return tensors


def unpack(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state, in float32, of what `pack` made."""
    state = {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items() if not k.endswith(".step")}
    for name in [name.removesuffix(".step") for name in tensors if name.endswith(".step")]:
        state[name] = tensors[name].float() * tensors[f"{name}.step"].float()[:, None, None, None]
    return state


def start_autoencoder(module: Autoencoder, path: Path) -> None:
    """Copy a file's tensors into an autoencoder of the same sizes but, perhaps, other lambdas and more levels.

    What belongs to a rate is interpolated linearly over log lambda; what levels add starts anew. Raises ValueError naming the file
    when they do not fit.
    """
    lacking = tuple(name for name in module.state_dict() if name.startswith("level_"))
    try:
        with safe_open(path, "pt") as file:
            had = json.loads((file.metadata() or {}).get("config", "{}")).get("lambdas", ())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: no weights of a training: {error}; give its weights.safetensors") from None
    wanted = module.config.lambdas
    if not had or tuple(had) == wanted:
        return load_into(module, path, lacking)
    order = np.argsort(had)
    at = np.interp(np.log(wanted), np.log(had)[order], np.arange(len(had))[order])
    load_into(module, path, lacking, module.by_rate, torch.tensor(at, dtype=torch.float32))


def load_into(
    module: torch.nn.Module,
    path: Path,
    may_lack: tuple[str, ...] = (),
    by_rate: tuple[str, ...] = (),
    at: torch.Tensor | None = None,
) -> None:
    """Copy a file's tensors into a module built for them; those in may_lack may be missing and stay as they are.

    by_rate: tensors whose first axis is the rate; they are interpolated linearly at the rates `at` (fractional indices, one for
    each of the module's), by default evenly where the module has another number of rates.
    Raises ValueError naming the file when they do not fit.
    """
    try:
        tensors = unpack(load_file(path))
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{path}: {name} holds NaN or infinity: the training that made it diverged; use other weights"
                )
        own = module.state_dict()
        for name in by_rate:
            if name in tensors and (at is not None or len(tensors[name]) != len(own[name])):
                last = len(tensors[name]) - 1
                places = torch.linspace(0, last, len(own[name])) if at is None else at
                below = places.floor().long().clamp(max=max(0, last - 1))
                weight = (places - below).reshape(-1, *[1] * (tensors[name].ndim - 1))
                tensors[name] = torch.lerp(tensors[name][below], tensors[name][(below + 1).clamp(max=last)], weight)
        for name, buffer in list(module.named_buffers()):
            if name in tensors and buffer.shape != tensors[name].shape:  # probability tables are empty in a new model
                owner, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(owner), leaf, torch.empty_like(tensors[name]))
        module.load_state_dict({name: module.state_dict()[name] for name in may_lack} | tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = shorten(str(error), 300)  # torch names every tensor, on a line each
        raise ValueError(f"{path}: these weights do not fit the model: {reason}; restore the file") from None
