"""CLIP ViT-B/32, both towers fine-tuned on UCM-captions."""

_base_ = [
    '../_base_/datasets/ucm.py',
    '../_base_/datasets/image_text_clip.py',
    '../_base_/models/clip_vit-b-32.py',
    '../_base_/schedules/clip_finetune.py',
    '../_base_/default_runtime.py',
]

train_dataloader = val_dataloader = test_dataloader = dict(dataset={{_base_.dataset}})
