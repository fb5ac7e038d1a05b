"""GeoRSCLIP ViT-B/32 (Zhang et al., IEEE TGRS 2024) as it is, tested on RSITMD.

The weights, ckpt/RS5M_ViT-B-32.pt, are in the repository Zilun/GeoRSCLIP of the Hugging Face hub; put the file into
data/checkpoints/. RS5M_ViT-B-32_RET-2.pt beside it was fine-tuned for retrieval.
"""

_base_ = [
    '../_base_/datasets/rsitmd.py',
    '../_base_/datasets/image_text_clip.py',
    '../_base_/models/clip_vit-b-32.py',
    '../_base_/default_runtime.py',
]

train_dataloader = val_dataloader = val_evaluator = None
test_dataloader = dict(dataset={{_base_.dataset}})
test_cfg = dict(type='TestLoop')
# trained on from OpenAI's weights, so with their QuickGELU
model = dict(pretrained='{{$GALR_DATA_ROOT:data}}/checkpoints/RS5M_ViT-B-32.pt')
