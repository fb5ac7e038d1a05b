# Pipelines and loaders of every data set. Which one: list its file (ucm.py, ...) as another base, and merge its
# `dataset` into the loaders.
size = 256
data_preprocessor = dict(
    type='mmpretrain.MultiModalDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
# the released recipe (resize to 278, rotate by 0 to 90 degrees, crop 256), and flips
train_pipeline = [
    dict(type='galr_mm.LoadImageWithProposals'),
    dict(type='mmengine.Resize', scale=(278, 278)),
    dict(type='galr_mm.RandomRotate', angle_range=(0, 90)),
    dict(type='galr_mm.RandomCrop', crop_size=size),
    dict(type='mmengine.RandomFlip', prob=[0.25, 0.25], direction=['horizontal', 'vertical']),
    dict(type='galr_mm.PackRetrievalInputs'),
]
test_pipeline = [
    dict(type='galr_mm.LoadImageWithProposals'),
    dict(type='mmengine.Resize', scale=(size, size)),
    dict(type='galr_mm.PackRetrievalInputs'),
]
train_dataloader = dict(
    batch_size=100,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='galr_mm.ImageTextDataset', split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='galr_mm.ImageTextDataset', split='val', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = dict(
    batch_size=50,
    num_workers=2,
    persistent_workers=False,
    drop_last=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='galr_mm.ImageTextDataset', split='test', test_mode=True, pipeline=test_pipeline),
)
val_evaluator = dict(type='galr_mm.RetrievalEvaluator', metrics=[dict(type='galr_mm.RecallAtK', topk=(1, 5, 10))])
test_evaluator = val_evaluator
