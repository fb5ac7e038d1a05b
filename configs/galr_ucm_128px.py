"""GaLR on UCM-captions at 128 px, sized for a CPU: 12 epochs of 8,400 captions are 60 passes over the images."""

_base_ = [
    './_base_/datasets/ucm.py',
    './_base_/datasets/image_text_128px.py',
    './_base_/models/galr_resnet18.py',
    './_base_/schedules/adamw_cosine.py',
    './_base_/default_runtime.py',
]

train_dataloader = val_dataloader = test_dataloader = dict(dataset={{_base_.dataset}})
model = dict(text_encoder=dict(vocabulary={{_base_.vocabulary}}))
train_cfg = dict(max_epochs=12)
