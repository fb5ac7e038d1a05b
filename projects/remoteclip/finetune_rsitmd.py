"""RemoteCLIP ViT-B/32 fine-tuned on RSITMD: half the learning rate of plain CLIP, the image tower's end only."""

_base_ = '../../configs/clip/clip_vit-b-32_finetune_rsitmd.py'

model = dict(
    model_name='ViT-B-32',
    pretrained='{{$GALR_DATA_ROOT:data}}/checkpoints/RemoteCLIP-ViT-B-32.pt',
    lock_image=True,
    lock_image_unlocked_groups=4,
)
optim_wrapper = dict(optimizer=dict(lr=5e-6))
