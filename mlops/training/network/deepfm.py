"""DeepFM (H. Guo et al., "DeepFM: a factorization-machine based neural network for CTR prediction", IJCAI 2017).

The logit is a linear term, the products of all pairs of fields' vectors (a factorization machine: S. Rendle, ICDM
2010), and a small network over the same vectors. A number is a field whose vector is multiplied by its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class DeepFM(nn.Module):
    """sizes: places of each text; numbers: how many there are; embedding: numbers of a field's vector."""

    offsets: Tensor

    def __init__(
        self, sizes: Sequence[int], numbers: int, embedding: int, hidden: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        offsets = torch.tensor([0, *sizes], dtype=torch.int64).cumsum(0)[:-1]
        self.register_buffer("offsets", offsets, persistent=False)
        self.linear = nn.Embedding(sum(sizes), 1)
        self.vectors = nn.Embedding(sum(sizes), embedding)
        self.number_linear = nn.Linear(numbers, 1)
        self.number_vectors = nn.Parameter(torch.empty(numbers, embedding))
        nn.init.zeros_(self.linear.weight)
        for weight in (self.vectors.weight, self.number_vectors):
            nn.init.normal_(weight, std=0.01)
        widths = [len(sizes) * embedding + numbers, *hidden]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU(), nn.Dropout(dropout)]
        self.deep = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, places: Tensor, numbers: Tensor) -> Tensor:
        """(n,) logits of places (n, texts) and numbers (n, numbers)."""
        rows = places + self.offsets
        vectors = self.vectors(rows)
        fields = torch.cat([vectors, numbers.unsqueeze(-1) * self.number_vectors], dim=1)
        # The sum over pairs in linear time, equation 3 of Rendle.
        pairs = 0.5 * (fields.sum(dim=1).square() - fields.square().sum(dim=1)).sum(dim=1)
        linear = self.linear(rows).sum(dim=1) + self.number_linear(numbers)
        deep = self.deep(torch.cat([vectors.flatten(1), numbers], dim=1))
        logits: Tensor = (linear + deep).squeeze(-1) + pairs
        return logits
