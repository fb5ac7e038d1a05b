# As image_text_256px.py, for training on a CPU: 128 px, and a random window instead of the rotated one, which leaves
# few pixels at this size.
_base_ = './image_text_256px.py'

size = 128
train_pipeline = [
    dict(type='galr_mm.LoadImageWithProposals'),
    dict(
        type='mmengine.RandomResize',
        resize_type='mmengine.Resize',
        scale=(size, size),
        ratio_range=(1.0, 1.4),
        keep_ratio=False,
    ),
    dict(type='galr_mm.RandomCrop', crop_size=size),
    dict(type='mmengine.RandomFlip', prob=[0.25, 0.25], direction=['horizontal', 'vertical']),
    dict(type='galr_mm.PackRetrievalInputs'),
]
test_pipeline = [
    dict(type='galr_mm.LoadImageWithProposals'),
    dict(type='mmengine.Resize', scale=(size, size)),
    dict(type='galr_mm.PackRetrievalInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
