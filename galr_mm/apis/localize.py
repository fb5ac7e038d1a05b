from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from mmengine.model import BaseModel
from torch import Tensor
from tqdm import tqdm

from galr_mm.apis.encode import encode_images, encode_texts
from galr_mm.functional import WindowMean
from galr_mm.functional.checks import check_whole
from galr_mm.imagery import SCALES, Scene, SceneReading, Window, multiscale_windows, open_scene
from galr_mm.structures import LocalizationMap, Place, SceneEmbeddings


class SceneLocalizer:
    """Where in a scene is a sentence true? The map of semantic localization (SeLo) for any retriever.

    The scene is cut into windows of several sizes, which are encoded once, whatever the number of sentences. The value
    of a pixel is the mean similarity of the windows on it.

    The published code saves each window as a JPEG of 256 px; here a window goes straight into the model's own test
    pipeline.

    Args:
        model: a retriever in evaluation, see :func:`galr_mm.apis.encode_images`.
        scales: sides of the windows in pixels, see :func:`galr_mm.imagery.multiscale_windows`.
        batch_size: windows at a time, which is what is held in memory of a TIFF that is read by windows.
        scenes: how scenes (GeoTIFF) become pixels, a :class:`galr_mm.imagery.SceneReading` or its arguments.

    Source: Yuan et al., Learning to Evaluate Performance of Multi-modal Semantic Localization, TGRS 2022.

    Example::

        locate = SceneLocalizer(init_model(config, checkpoint))
        found = locate('harbor.tif', 'two white ships beside the pier')
        found.save('ships.png', median=251)
        found.similarity.max()  # raw: the normalized map always has a 1 somewhere
        embeddings = locate.encode('harbor.tif')  # to keep; locate(embeddings, [...]) reads no image
    """

    def __init__(
        self,
        model: BaseModel,
        scales: Sequence[int] = SCALES,
        batch_size: int = 32,
        scenes: SceneReading | Mapping[str, Any] | None = None,
    ) -> None:
        check_whole('batch_size', batch_size)
        multiscale_windows(1, 1, scales)  # which checks them
        self.model = model
        self.scales = tuple(scales)
        self.batch_size = int(batch_size)
        self.scenes = scenes if isinstance(scenes, SceneReading) else SceneReading(**(scenes or {}))

    @overload
    def __call__(self, scene: str | Path | np.ndarray | SceneEmbeddings, sentences: str) -> LocalizationMap: ...

    @overload
    def __call__(
        self, scene: str | Path | np.ndarray | SceneEmbeddings, sentences: list[str] | tuple[str, ...]
    ) -> list[LocalizationMap]: ...

    def __call__(
        self, scene: str | Path | np.ndarray | SceneEmbeddings, sentences: str | list[str] | tuple[str, ...]
    ) -> LocalizationMap | list[LocalizationMap]:
        """The map of a sentence, or a list of maps.

        Args:
            scene: a file, a BGR uint8 array (H, W, 3), or what is encoded already: by :meth:`encode`, or windows and
                vectors of an index of the same model.
            sentences: one, or several.

        Raises:
            TypeError: for what is neither a path, an array nor embeddings.
            ValueError: for an array of another kind, no sentence, or embeddings that do not fit, see :func:`localize`.
            OSError: when the file cannot be read; names it.
        """
        texts = [sentences] if isinstance(sentences, str) else sentences
        text_feat = encode_texts(self.model, texts)
        maps = localize(scene if isinstance(scene, SceneEmbeddings) else self.encode(scene), text_feat, texts)
        return maps[0] if isinstance(sentences, str) else maps

    def encode(self, scene: str | Path | np.ndarray) -> SceneEmbeddings:
        """The windows of a scene and their embeddings, on the CPU.

        Raises:
            TypeError, ValueError, OSError: as :meth:`__call__`.
        """
        if not isinstance(scene, (str, Path, np.ndarray)):
            raise TypeError(f'the scene is a {type(scene).__name__}, expected a path or a BGR array')
        if not isinstance(scene, np.ndarray):
            with open_scene(scene, self.scenes) as opened:
                if isinstance(opened, Scene):
                    return self._encode(opened.height, opened.width, opened.read_valid, opened.place)
                return self._encode(opened.height, opened.width, lambda window: (opened.read(window), 1.0))
        if scene.dtype != np.uint8 or scene.ndim != 3 or scene.shape[2] != 3:
            raise ValueError(f'the scene is an array of {scene.dtype} {scene.shape}, expected BGR uint8 (H, W, 3)')
        height, width = scene.shape[:2]

        def read(window: Window) -> tuple[np.ndarray, float]:
            return np.ascontiguousarray(scene[window.top : window.bottom, window.left : window.right]), 1.0

        return self._encode(height, width, read)

    def _encode(
        self,
        height: int,
        width: int,
        read: Callable[[Window], tuple[np.ndarray, float]],
        place: Place = Place(),  # noqa: B008, it is immutable
    ) -> SceneEmbeddings:
        """Windows that hold data, and their embeddings; ``read`` gives pixels and the fraction that is data."""
        windows = multiscale_windows(height, width, self.scales)
        size = self.batch_size
        kept: list[Window] = []
        vectors: list[Tensor] = []
        for start in tqdm(range(0, len(windows), size), 'batches of windows', leave=False, disable=None):
            read_parts = ((window, *read(window)) for window in windows[start : start + size])
            parts = {window: pixels for window, pixels, valid in read_parts if valid}
            if parts:
                kept += parts
                vectors.append(encode_images(self.model, list(parts.values()), size, progress=False).cpu())
        if not kept:
            raise ValueError('the scene holds no data')
        return SceneEmbeddings(height, width, np.array(kept), torch.cat(vectors), place)


def localize(scene: SceneEmbeddings, text_feat: Tensor, sentences: Sequence[str]) -> list[LocalizationMap]:
    """Maps of sentences from embeddings alone: one product, and a mean over windows for each sentence.

    Args:
        scene: windows and their embeddings.
        text_feat: embeddings of the sentences by the same model.
        sentences: what the maps carry as their name.

    Shapes:
        - text_feat: (n, D), L2-normalized

    Raises:
        ValueError: when the embeddings are of other dimensions, not finite, or of windows that leave the scene.
    """
    if text_feat.shape[1] != scene.vectors.shape[1]:
        raise ValueError(
            f'the scene has embeddings of {scene.vectors.shape[1]} dimensions, the sentences of {text_feat.shape[1]}: '
            'they are of two models'
        )
    mean = WindowMean(scene.windows, scene.height, scene.width)
    similarities = (text_feat.float().cpu() @ scene.vectors.float().cpu().t()).numpy()
    return [
        LocalizationMap(sentence, mean.y_edges, mean.x_edges, mean(row).astype(np.float32), scene.place)
        for sentence, row in zip(sentences, similarities, strict=True)
    ]
