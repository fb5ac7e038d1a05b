"""GaLR on RSITMD: EfficientNet-Lite0 from ImageNet, its last stages trained, and MiniLM."""

_base_ = [
    './_base_/datasets/rsitmd.py',
    './_base_/datasets/image_text_224px.py',
    './_base_/models/galr_lite0.py',
    './_base_/schedules/adamw_heads.py',
    './_base_/default_runtime.py',
]

train_dataloader = val_dataloader = test_dataloader = dict(dataset={{_base_.dataset}})
