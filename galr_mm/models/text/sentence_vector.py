from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from galr_mm.messages import shorten
from galr_mm.registry import MODELS


@MODELS.register_module()
class SentenceVectorProjection(BaseModule):
    r"""Linear layer and ReLU over ready sentence vectors, as in the released code (2400-d skip-thoughts).

    .. math:: v_t = \mathrm{ReLU}(W s + b)

    The data set's ``sentence_vectors`` supplies the vectors.

    Args:
        in_dim: width of the sentence vectors.
        embed_dim: width of the output.

    Shapes:
        - input: (T, in_dim), or a sequence of T vectors (in_dim,)
        - output: (T, embed_dim), not normalized

    Example:
        >>> import torch
        >>> tuple(SentenceVectorProjection(in_dim=24, embed_dim=8)(torch.rand(3, 24)).shape)
        (3, 8)
    """

    def __init__(self, in_dim: int = 2400, embed_dim: int = 512, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.fc = nn.Linear(in_dim, embed_dim)

    def forward(self, texts: Tensor | Sequence[Tensor]) -> Tensor:
        """Project sentence vectors."""
        if not isinstance(texts, Tensor):
            if len(texts) and isinstance(texts[0], str):
                raise TypeError(
                    f'this model takes sentence vectors of width {self.fc.in_features}, not words '
                    f'({shorten(texts[0])}); set sentence_vectors in the data set'
                )
            texts = torch.stack([torch.as_tensor(t) for t in texts])
        return self.fc(texts.to(self.fc.weight)).relu()
