"""Which image and caption of a batch belong together, and which others are not negatives."""

from __future__ import annotations

import torch
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
