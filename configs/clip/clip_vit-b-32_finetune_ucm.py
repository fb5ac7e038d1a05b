"""CLIP ViT-B/32, both towers fine-tuned on UCM-captions."""

_base_ = [
    '../_base_/datasets/image_text_clip.py',
    '../_base_/models/clip_vit-b-32.py',
    '../_base_/schedules/clip_finetune.py',
    '../_base_/default_runtime.py',
]

data_root = '{{$GALR_DATA_ROOT:data}}/ucm/'
dataset = dict(data_root=data_root, ann_file='dataset_ucm.json')
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
