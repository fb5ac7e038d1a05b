"""GaLR on the generated mini data set, at 128 px: the configuration of `make demo`."""

_base_ = [
    './_base_/datasets/image_text_128px.py',
    './_base_/models/galr_resnet18.py',
    './_base_/schedules/adamw_cosine.py',
    './_base_/default_runtime.py',
]

data_root = 'data/mini/'
dataset = dict(data_root=data_root, ann_file='dataset_mini.json')
# captions say left and right, so no flips
train_pipeline = [
    dict(type='galr_mm.LoadImageWithProposals'),
    dict(
        type='mmengine.RandomResize',
        resize_type='mmengine.Resize',
        scale=(128, 128),
        ratio_range=(1.0, 1.15),
        keep_ratio=False,
    ),
    dict(type='galr_mm.RandomCrop', crop_size=128),
    dict(type='galr_mm.PackRetrievalInputs'),
]
train_dataloader = dict(batch_size=50, dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
model = dict(local=dict(drea=dict(num_classes=6)), text_encoder=dict(vocabulary=data_root + 'vocabulary.json'))
train_cfg = dict(max_epochs=6)
default_hooks = dict(logger=dict(interval=5))  # a line every few seconds, so that one sees it move
