"""RTMDet-tiny on NWPU VHR-10 (10 classes, horizontal boxes), from scratch at 320 px, 30 epochs."""

_base_ = [
    '../_base_/detection/rtmdet-tiny.py',
    '../_base_/datasets/nwpu_vhr10_320px.py',
    '../_base_/detection/runtime.py',
]

max_epochs = 30
model = dict(bbox_head=dict(num_classes=10))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR', eta_min=2e-5, begin=1, T_max=max_epochs - 1, end=max_epochs, by_epoch=True,
        convert_to_iter_based=True,
    ),
]  # fmt: skip
