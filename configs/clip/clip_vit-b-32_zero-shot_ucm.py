"""CLIP ViT-B/32 as it is, tested on UCM-captions: `python tools/test.py CONFIG`, without a checkpoint."""

_base_ = [
    '../_base_/datasets/ucm.py',
    '../_base_/datasets/image_text_clip.py',
    '../_base_/models/clip_vit-b-32.py',
    '../_base_/default_runtime.py',
]

train_dataloader = val_dataloader = val_evaluator = None
test_dataloader = dict(dataset={{_base_.dataset}})
test_cfg = dict(type='TestLoop')
