"""The adapter from visual features to the width of the language model."""

from torch import Tensor, nn

from illume_fast.model.config import ProjectorConfig


def mlp(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    """`depth` linear layers with GELU between them."""
    layers: list[nn.Module] = [nn.Linear(inputs, outputs)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(outputs, outputs)]
    return nn.Sequential(*layers)


class MixedProjector(nn.Module):
    """One small MLP per kind of feature: `projector_1` for semantic, `projector_2` for pixel features."""

    def __init__(self, config: ProjectorConfig, widths: tuple[int, int], hidden_size: int) -> None:
        super().__init__()
        self.projector_1 = mlp(widths[0], hidden_size, config.depth)
        self.projector_2 = mlp(widths[1], hidden_size, config.depth)

    def forward(self, semantic: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, N, D0] and [B, M, D1] -> [B, N, H] and [B, M, H]."""
        return self.projector_1(semantic), self.projector_2(pixel)
