"""CLIP ViT-B/32, its text tower fine-tuned on UCM-captions to a locked image tower (LiT)."""

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
# lock_image_unlocked_groups=n leaves the last n layer groups free
model = dict(lock_image=True)
