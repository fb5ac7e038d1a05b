"""RTMDet-tiny on DOTA v1.0 as horizontal boxes (15 classes), for images cut to 1024 px tiles.

The data is yours to get and to cut (overlap 200 is usual); layout: data/dota/{images/, instances_train.json,
instances_val.json}, COCO json whose categories have the names below. Not trained here. Extract proposals of large
scenes with ``tools/extract_proposals.py ... --tile 1024 --overlap 200``, and set ``model.local.drea.num_classes=15`` in
the retriever.
"""

_base_ = './rtmdet-tiny_nwpu.py'

data_root = '{{$GALR_DATA_ROOT:data}}/dota/'
metainfo = dict(
    classes=(
        'plane', 'baseball-diamond', 'bridge', 'ground-track-field', 'small-vehicle', 'large-vehicle', 'ship',
        'tennis-court', 'basketball-court', 'storage-tank', 'soccer-ball-field', 'roundabout', 'harbor',
        'swimming-pool', 'helicopter',
    )
)  # fmt: skip
size = (1024, 1024)

model = dict(bbox_head=dict(num_classes=15), test_cfg=dict(nms_pre=2000, max_per_img=300))

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
data = dict(metainfo=metainfo, data_root=data_root)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **data))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **data))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline, **data))
val_evaluator = dict(ann_file=data_root + 'instances_val.json')
test_evaluator = val_evaluator
