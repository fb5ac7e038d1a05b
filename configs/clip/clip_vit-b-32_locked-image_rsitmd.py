"""CLIP ViT-B/32, its text tower fine-tuned on RSITMD to a locked image tower (LiT)."""

_base_ = [
    '../_base_/datasets/rsitmd.py',
    '../_base_/datasets/image_text_clip.py',
    '../_base_/models/clip_vit-b-32.py',
    '../_base_/schedules/clip_finetune.py',
    '../_base_/default_runtime.py',
]

train_dataloader = val_dataloader = test_dataloader = dict(dataset={{_base_.dataset}})
# lock_image_unlocked_groups=n leaves the last n layer groups free
model = dict(lock_image=True)
