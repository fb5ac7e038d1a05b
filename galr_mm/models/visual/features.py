"""What passes between a backbone, a global encoder and the rest of a retriever."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from mmengine.model import BaseModule
from torch import Tensor


class BackboneFeatures(NamedTuple):
    """What a backbone makes of a batch of images.

    Shapes:
        - maps: (B, C_i, H_i, W_i), from fine to coarse
        - embedding: (B, D), the backbone's own vector of each image, where it has one
    """

    maps: Sequence[Tensor]
    embedding: Tensor | None = None


class VisualFeatures(NamedTuple):
    """What a global encoder makes of a backbone's features.

    The embedding comes last, where the heads of mmpretrain look, so a global encoder serves as a neck there.

    Shapes:
        - tokens: (B, P, token_channels), one vector a map position
        - embedding: (B, D), the image as one vector
    """

    tokens: Tensor
    embedding: Tensor


class EmbeddingBackbone(BaseModule):
    """A backbone that has an embedding of its own beside its maps, and knows how it wants its images.

    A retriever calls :meth:`extract_features`. Under any other model of OpenMMLab it is a backbone like others:
    ``forward`` gives the tuple of maps.

    Attributes:
        image_size: height and width of the images it takes.
        data_preprocessor: config of the one that normalizes images as its weights want them, or None.
        pipeline: configs of the transforms that make such images of files and arrays, or None where it does not know.
    """

    image_size: tuple[int, int] = (224, 224)
    data_preprocessor: dict[str, Any] | None = None
    pipeline: list[dict[str, Any]] | None = None

    @abstractmethod
    def extract_features(self, images: Tensor) -> BackboneFeatures:
        """Maps and embedding of normalized images (B, 3, H, W)."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, C_i, H_i, W_i) of normalized images (B, 3, H, W)."""
        return tuple(self.extract_features(images).maps)
