# NWPU VHR-10 with COCO files, 10 classes, horizontal boxes: 520 training and 130 validation images at 320 px.
data_root = '{{$GALR_DATA_ROOT:data}}/nwpu_vhr10/'
metainfo = dict(
    classes=(
        'airplane', 'ship', 'storage_tank', 'baseball_diamond', 'tennis_court', 'basketball_court',
        'ground_track_field', 'harbor', 'bridge', 'vehicle',
    )
)  # fmt: skip
size = (320, 320)

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
