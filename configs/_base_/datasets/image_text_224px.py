# As image_text_256px.py, for the backbones of EfficientNet-Lite: 224 px in their normalization, quarter turns and
# flips, which a feature cache can hold, and all captions of an image in one step.
_base_ = './image_text_256px.py'

size = 224
data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
load = [
    dict(type='galr_mm.LoadImageWithProposals'),
    dict(type='mmengine.Resize', scale=(size, size)),
]
pack = dict(type='galr_mm.PackRetrievalInputs')
views = ['identity', 'rot90', 'hflip', 'transverse']
train_pipeline = [*load, dict(type='galr_mm.RandomD4', views=views), pack]
test_pipeline = [*load, pack]
train_dataloader = dict(batch_size=96, dataset=dict(captions='all', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
