"""RTMDet-tiny on NWPU VHR-10 (10 classes, horizontal boxes), from scratch at 320 px, 30 epochs."""

_base_ = '../_base_/detection/rtmdet-tiny.py'

data_root = '{{$GALR_DATA_ROOT:data}}/nwpu_vhr10/'
metainfo = dict(
    classes=(
        'airplane', 'ship', 'storage_tank', 'baseball_diamond', 'tennis_court', 'basketball_court',
        'ground_track_field', 'harbor', 'bridge', 'vehicle',
    )
)  # fmt: skip
size = (320, 320)
max_epochs = 30

model = dict(bbox_head=dict(num_classes=10))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', resize_type='mmdet.Resize', scale=size, ratio_range=(0.7, 1.6), keep_ratio=True),
    dict(type='mmdet.RandomCrop', crop_size=size),
    dict(type='mmdet.YOLOXHSVRandomAug'),
    dict(type='mmdet.RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='mmdet.Pad', size=size, pad_val=dict(img=(114, 114, 114))),
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=size, keep_ratio=True),
    dict(type='mmdet.Pad', size=size, pad_val=dict(img=(114, 114, 114))),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmdet.CocoDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='instances_train.json',
        data_prefix=dict(img='images/'),
        filter_cfg=dict(filter_empty_gt=False, min_size=4),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdet.CocoDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='instances_val.json',
        data_prefix=dict(img='images/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mmdet.CocoMetric', ann_file=data_root + 'instances_val.json', metric='bbox', proposal_nums=(100, 1, 10)
)
test_evaluator = val_evaluator

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR', eta_min=2e-5, begin=1, T_max=max_epochs - 1, end=max_epochs, by_epoch=True,
        convert_to_iter_based=True,
    ),
]  # fmt: skip
