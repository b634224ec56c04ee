"""Read models back from safetensors: tensors and the metadata that says how to build them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from .autoencoder import Autoencoder, AutoencoderConfig
from .decoder import Decoder
from .network import NetworkConfig


@dataclass(frozen=True)
class Model:
    """module, in evaluation mode; id: first four bytes of the file's sha256; metadata of the file."""

    module: torch.nn.Module
    id: bytes
    metadata: dict[str, str]


def read_autoencoder(path: Path) -> Model:
    return _read(path, lambda config: Autoencoder(AutoencoderConfig(**config)))


def read_decoder(path: Path) -> Model:
    return _read(path, lambda config: Decoder(NetworkConfig(**config)))


def _read(path: Path, build) -> Model:
    """Raises ValueError naming the file when it is not a model of this kind."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118: not a dict
        config = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(metadata["config"]).items()}
        module = build(config)
        for name, tensor in tensors.items():
            if tensor.dtype == torch.float16:
                tensors[name] = tensor.float()
        _size_buffers(module, tensors)
        module.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not weights of this model: {error}; restore the file") from None
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    return Model(module.eval().requires_grad_(False), digest[:4], metadata)


def _size_buffers(module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Probability tables are empty in a new model: give them the size of the stored ones."""
    for name, buffer in list(module.named_buffers()):
        if name in tensors and buffer.shape != tensors[name].shape:
            owner = module.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], torch.empty_like(tensors[name]))
