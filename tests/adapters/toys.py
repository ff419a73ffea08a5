"""Small torch models with one of each layer that PEFT knows."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


def seeded(model: nn.Module, seed: int = 7) -> nn.Module:
    """Every parameter random: norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.2
    return model


class Layer(nn.Module):
    """Linear layers with and without bias, of several shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(10, 10)
        self.k_proj = nn.Linear(10, 7, bias=False)
        self.up = nn.Linear(10, 16)
        self.down = nn.Linear(16, 10)
        self.norm = nn.LayerNorm(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(self.norm(self.q_proj(x))))


class Mlp(nn.Module):
    """Three layers, an embedding, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(13, 10)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.norm = nn.LayerNorm(10)
        self.score = nn.Linear(10, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.score(self.norm(x))


class Gpt2ish(nn.Module):
    """transformers' Conv1D, square and not, beside Linear layers of the same shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(11, 8)
        self.c_attn = Conv1D(24, 8)
        self.c_proj = Conv1D(8, 8)
        self.lm_head = nn.Linear(8, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.c_proj(self.wte(ids)))


class Convolutions(nn.Module):
    """Every convolution, one of them pointwise."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(4, 6, 3, groups=groups)
        self.conv2 = nn.Conv2d(4, 6, (3, 2), groups=groups)
        self.point = nn.Conv2d(4, 6, 1, groups=groups)
        self.conv3 = nn.Conv3d(4, 6, 2, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(x)


class Attention(nn.Module):
    """An attention whose projections are bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.mha(x, x, x)[0])


class Experts(nn.Module):
    """Expert stacks [E, out, in], or [E, in, out] where `is_transposed`; declared in this order."""

    def __init__(self, *, transposed: bool, square: bool) -> None:
        super().__init__()
        hidden, inner = (8, 8) if square else (8, 6)
        self.is_transposed = transposed
        up, down = (2 * inner, hidden), (hidden, inner)
        if square:
            up = (8, 8)
        order = (lambda a, b: (b, a)) if transposed else (lambda a, b: (a, b))
        self.gate_up_proj = nn.Parameter(torch.empty(4, *order(*up)))
        self.gate_up_bias = nn.Parameter(torch.empty(4, up[0]))
        self.down_proj = nn.Parameter(torch.empty(4, *order(*down)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Mixture(nn.Module):
    """Two layers of experts, a router whose weight is a bare parameter, and a Linear."""

    def __init__(self, *, transposed: bool = False, square: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "experts": Experts(transposed=transposed, square=square),
                "gate": Router(),
                "o_proj": nn.Linear(8, 8),
            })
            for _ in range(2)
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Router(nn.Module):
    """A weight without a layer class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 8))
