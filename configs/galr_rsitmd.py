"""GaLR on RSITMD: 4,291 training images (20 % of them drawn for validation), 452 for the test."""

_base_ = [
    './_base_/datasets/rsitmd.py',
    './_base_/datasets/image_text_256px.py',
    './_base_/models/galr_resnet18.py',
    './_base_/schedules/adamw_cosine.py',
    './_base_/default_runtime.py',
]

train_dataloader = val_dataloader = test_dataloader = dict(dataset={{_base_.dataset}})
model = dict(text_encoder=dict(vocabulary={{_base_.vocabulary}}))
train_cfg = dict(max_epochs=20)
