"""GaLR on UCM-captions: 1,680 / 210 / 210 images."""

_base_ = [
    './_base_/datasets/image_text_256px.py',
    './_base_/models/galr_resnet18.py',
    './_base_/schedules/adamw_cosine.py',
    './_base_/default_runtime.py',
]

data_root = '{{$GALR_DATA_ROOT:data}}/ucm/'
dataset = dict(data_root=data_root, ann_file='dataset_ucm.json')
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
model = dict(text_encoder=dict(vocabulary=data_root + 'vocabulary.json'))
train_cfg = dict(max_epochs=20)
