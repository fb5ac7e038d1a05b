"""GaLR on CLIP ViT-B/32, trained on UCM-captions."""

_base_ = [
    '../_base_/datasets/ucm.py',
    '../_base_/datasets/image_text_clip.py',
    '../_base_/models/galr_clip_vit-b-32.py',
    '../_base_/schedules/clip_finetune.py',
    '../_base_/default_runtime.py',
]

train_dataloader = val_dataloader = test_dataloader = dict(dataset={{_base_.dataset}})
# what is new learns faster than what is ready
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(gcn=dict(lr_mult=50.0), fusion=dict(lr_mult=50.0))))
