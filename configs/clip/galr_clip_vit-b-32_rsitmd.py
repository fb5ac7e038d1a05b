"""GaLR on CLIP ViT-B/32, trained on RSITMD."""

_base_ = [
    '../_base_/datasets/image_text_clip.py',
    '../_base_/models/galr_clip_vit-b-32.py',
    '../_base_/schedules/clip_finetune.py',
    '../_base_/default_runtime.py',
]

data_root = '{{$GALR_DATA_ROOT:data}}/rsitmd/'
dataset = dict(data_root=data_root, ann_file='dataset_rsitmd.json')
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
# what is new learns faster than what is ready
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(gcn=dict(lr_mult=50.0), fusion=dict(lr_mult=50.0))))
