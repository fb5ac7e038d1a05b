# Pipelines and loaders for the backbones of EfficientNet-Lite: 224 px, quarter turns and flips, which a feature cache
# can hold, and all captions of an image in one step. Which data set: list its file (ucm.py, ...) as another base, and
# merge its `dataset` into the loaders.
data_preprocessor = dict(
    type='mmpretrain.MultiModalDataPreprocessor',
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    to_rgb=True,
)
load = [
    dict(type='galr_mm.LoadImageWithProposals'),
    dict(type='mmengine.Resize', scale=(224, 224)),
]
pack = dict(type='galr_mm.PackRetrievalInputs')
views = ['identity', 'rot90', 'hflip', 'transverse']
train_pipeline = [*load, dict(type='galr_mm.RandomD4', views=views), pack]
test_pipeline = [*load, pack]
train_dataloader = dict(
    batch_size=96,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='galr_mm.ImageTextDataset', split='train', captions='all', pipeline=train_pipeline),
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
