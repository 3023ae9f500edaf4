"""A network as one file of safetensors, which is a header in JSON and numbers: loading it runs no code.

https://github.com/huggingface/safetensors#format. What the network is built of stands in the header.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mlops.result import Failure
from mlops.training.network.deepfm import DeepFM
from mlops.training.network.encoding import Encoding

_HEADER = "maestro"  # the one key of the header's metadata, which are texts: JSON of the rest
_LARGEST = 1 << 26  # bytes of a header; a million identifiers take 20 MB


@dataclass
class Network:
    """A DeepFM and how its input is made. architecture: the arguments of DeepFM, beside those of the encoding."""

    encoding: Encoding
    architecture: Mapping[str, Any]
    model: DeepFM

    @classmethod
    def of(cls, encoding: Encoding, embedding: int, hidden: tuple[int, ...], dropout: float) -> Network:
        """With random weights, from the random state of torch."""
        architecture = {"embedding": embedding, "hidden": list(hidden), "dropout": dropout}
        return cls(encoding, architecture, _model(encoding, architecture))


def pack(tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> bytes:
    """The same tensors and the same words give the same bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content: bytes = safetensors.torch.save(plain, {_HEADER: json.dumps(said, sort_keys=True)})
    return content


def unpack(content: bytes, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, and what was said of them. what: for who reads the error. Raises Failure for anything else."""
    try:
        length = int.from_bytes(content[:8], "little")
        if length > _LARGEST:
            raise ValueError(f"its header has {length} bytes, at most {_LARGEST} are read")
        said = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_HEADER])
        return safetensors.torch.load(content), said
    except (KeyError, TypeError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise Failure(f"{what} is no file of this family ({str(error)[:200]}): train the model anew") from error


def packed(network: Network) -> bytes:
    said = {"encoding": network.encoding.as_json(), "architecture": dict(network.architecture)}
    return pack(network.model.state_dict(), said)


def unpacked(content: bytes, what: str) -> Network:
    """Ready to be asked. Raises Failure where the weights are not those of the architecture."""
    tensors, said = unpack(content, what)
    try:
        encoding, architecture = Encoding.from_json(said["encoding"]), said["architecture"]
        with torch.random.fork_rng(devices=[]):
            model = _model(encoding, architecture)
        model.load_state_dict(tensors)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise Failure(f"{what} does not fit together ({str(error)[:200]}): train the model anew") from error
    model.eval()
    return Network(encoding, architecture, model)


def _model(encoding: Encoding, architecture: Mapping[str, Any]) -> DeepFM:
    return DeepFM(encoding.sizes, 2 * len(encoding.numbers), **architecture)
