"""Faster R-CNN with a ResNet-18 and FPN on NWPU VHR-10 (10 classes, horizontal boxes), from scratch at 320 px.

ImageNet weights: --cfg-options model.backbone.init_cfg.type=Pretrained \\
                                model.backbone.init_cfg.checkpoint=torchvision://resnet18
"""

_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/nwpu_vhr10_320px.py',
    '../_base_/detection/runtime.py',
]

max_epochs = 30
model = dict(
    _scope_='mmdet',
    type='mmdet.FasterRCNN',
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512]),
    roi_head=dict(bbox_head=dict(num_classes=10)),
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=35, norm_type=2),
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, T_max=max_epochs, convert_to_iter_based=True),
]
