"""Which image and caption of a batch belong together, which others are not negatives, and the pool of all processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_gather, all_reduce, get_rank, get_world_size
from torch import Tensor


def owner_of_each(owner: Tensor | None, images: Tensor, captions: Tensor) -> Tensor:
    """Row of the image that each caption came with, int64 (T,); without ``owner`` caption i came with image i.

    Raises:
        ValueError: when there are other counts than one caption an image and no ``owner``, or one of another length.
    """
    if owner is None:
        if len(images) != len(captions):
            raise ValueError(
                f'{len(captions)} captions of {len(images)} images need an owner: the row of the image of each caption'
            )
        return torch.arange(len(captions), device=captions.device)
    if len(owner) != len(captions):
        raise ValueError(f'owner has {len(owner)} rows for {len(captions)} captions, expected one a caption')
    return owner


def own_pairs(owner: Tensor, num_images: int) -> Tensor:
    """Pairs of an image and the captions that came with it, bool (B, T), of ``owner`` (T,).

    Example:
        >>> own_pairs(torch.tensor([0, 0, 1]), 2).tolist()
        [[True, True, False], [False, False, True]]
    """
    return torch.arange(num_images, device=owner.device)[:, None] == owner


def duplicate_pairs(image_ids: Tensor, caption_ids: Tensor, owner: Tensor | None = None) -> Tensor:
    """Pairs of an image and a caption of another row that are not negatives.

    Caption c is not a negative of image j where both rows are the same image, or where one of the captions that came
    with row j has the words of c. An image that is in the batch twice is compared by the captions of each row, not by
    those of both.

    Args:
        image_ids: equal for equal images.
        caption_ids: equal for captions of equal words.
        owner: row of the image that each caption came with; by default caption i came with image i.

    Shapes:
        - image_ids: int64 (B,)
        - caption_ids, owner: int64 (T,)
        - output: bool (B, T)

    Example:
        >>> duplicate_pairs(torch.tensor([0, 1, 0]), torch.tensor([5, 6, 7])).nonzero().tolist()
        [[0, 2], [2, 0]]
        >>> duplicate_pairs(torch.tensor([0, 1]), torch.tensor([5, 6, 6]), torch.tensor([0, 0, 1])).nonzero().tolist()
        [[0, 2], [1, 1]]
    """
    owner = owner_of_each(owner, image_ids, caption_ids)
    _, words = caption_ids.unique(return_inverse=True)
    described = torch.zeros(len(image_ids), len(caption_ids), dtype=torch.bool, device=image_ids.device)
    described[owner, words] = True
    same = (image_ids[:, None] == image_ids[owner]) | described[:, words]
    return same & ~own_pairs(owner, len(image_ids))


class PairScores(NamedTuple):
    """Scores of a batch of B images and T captions with B' images and T' captions, its own or those of all processes.

    Attributes:
        own: (T,), of each caption with the image it came with.
        rows: int64 (T,), row of that image in ``captions``.
        images: (T, B'), of each caption with the images.
        captions: (B, T'), of each image with the captions.
        skip_images: bool (T, B'), what is not a negative of a caption: its image, and pairs left out.
        skip_captions: bool (B, T'), likewise of an image.
        processes: how many hold a part of the B' images and T' captions.
    """

    own: Tensor
    rows: Tensor
    images: Tensor
    captions: Tensor
    skip_images: Tensor
    skip_captions: Tensor
    processes: int = 1

    @classmethod
    def of_similarity(cls, similarity: Tensor, ignore: Tensor | None = None, owner: Tensor | None = None) -> PairScores:
        """From the scores (B, T) of a batch with itself; ``ignore`` bool (B, T) are pairs that are not negatives."""
        owner = owner_of_each(owner, similarity, similarity.t())
        skip = own_pairs(owner, len(similarity))
        skip = skip if ignore is None else skip | ignore
        own = similarity[owner, torch.arange(len(owner), device=owner.device)]
        return cls(own, owner, similarity.t(), similarity, skip.t(), skip)

    @classmethod
    def of_features(
        cls,
        image_feat: Tensor,
        text_feat: Tensor,
        image_ids: Tensor,
        caption_ids: Tensor,
        owner: Tensor | None = None,
        scale: Tensor | float = 1.0,
        mask_duplicates: bool = True,
        gather: bool = False,
    ) -> PairScores:
        """From features (B, D) and (T, D): their dot products times ``scale``.

        With ``gather`` they are compared with the features of all processes, of which each may hold another count.
        Gradients go back to the features of every process. ``image_ids`` and ``caption_ids`` must then mean the same
        on all of them.
        """
        if not gather or get_world_size() == 1:
            ignore = duplicate_pairs(image_ids, caption_ids, owner) if mask_duplicates else None
            return cls.of_similarity(scale * image_feat @ text_feat.t(), ignore, owner)
        rows = owner_of_each(owner, image_feat, text_feat)
        sizes = torch.stack(all_gather(torch.tensor([len(image_feat), len(text_feat)], device=rows.device)))
        first_image, first_caption = (sizes.cumsum(0) - sizes)[get_rank()].tolist()
        here = slice(first_image, first_image + len(image_feat)), slice(first_caption, first_caption + len(text_feat))
        # both towers at once, so that the backward passes of all processes meet in one order
        feats = _gather_both(image_feat, text_feat, sizes, _RowsOfAll.apply)
        ids = _gather_both(image_ids, caption_ids, sizes, _rows_of_all)
        owners = _rows_of_all(rows + first_image, sizes[:, 1].tolist())
        skip = own_pairs(owners, len(feats[0]))
        if mask_duplicates:
            skip = skip | duplicate_pairs(*ids, owners)
        images = scale * text_feat @ feats[0].t()
        own = images[torch.arange(len(rows), device=rows.device), owners[here[1]]]
        captions = scale * image_feat @ feats[1].t()
        return cls(own, rows, images, captions, skip[:, here[1]].t(), skip[here[0]], get_world_size())


def _gather_both(
    images: Tensor, captions: Tensor, sizes: Tensor, gather: Callable[[Tensor, list[int]], Tensor]
) -> tuple[Tensor, Tensor]:
    """Rows (B', ...) of images and (T', ...) of captions of all processes, which hold ``sizes`` (processes, 2)."""
    parts = gather(torch.cat([images, captions]), sizes.sum(1).tolist()).split(sizes.flatten().tolist())
    return torch.cat(parts[0::2]), torch.cat(parts[1::2])


def _rows_of_all(rows: Tensor, counts: list[int]) -> Tensor:
    """Rows of all processes in the order of their ranks, of which each holds ``counts[rank]``; without gradient."""
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    return torch.cat([part[:count] for part, count in zip(all_gather(padded), counts, strict=True)])


class _RowsOfAll(torch.autograd.Function):
    """:func:`_rows_of_all` with gradient: a row gets the sum of what all processes' losses give it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        """Rows of all processes."""
        ctx.counts = counts
        return _rows_of_all(rows, counts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Gradient of this process's rows."""
        total = grads[0].clone(memory_format=torch.contiguous_format)
        all_reduce(total)
        return total.split(ctx.counts)[get_rank()], None
