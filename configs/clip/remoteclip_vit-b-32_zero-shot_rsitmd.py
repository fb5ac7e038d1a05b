"""RemoteCLIP ViT-B/32 (Liu et al., IEEE TGRS 2024) as it is, tested on RSITMD.

The weights, RemoteCLIP-ViT-B-32.pt, are in the repository chendelong/RemoteCLIP of the Hugging Face hub; put the file
into data/checkpoints/. RN50 and ViT-L-14 beside it are used alike, with model.model_name=RN50 or ViT-L-14.
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
# the plain GELU, as in the authors' own example
model = dict(model_name='ViT-B-32', pretrained='{{$GALR_DATA_ROOT:data}}/checkpoints/RemoteCLIP-ViT-B-32.pt')
