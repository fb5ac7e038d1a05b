"""A plain ResNet-18 + bi-GRU dual encoder on UCM-captions at 128 px: the baseline of galr_ucm_128px.py."""

_base_ = './galr_ucm_128px.py'

model = dict(
    _delete_=True,
    type='galr_mm.DualEncoder',
    backbone={{_base_.model.backbone}},
    visual=dict(type='galr_mm.GlobalPool'),
    text_encoder={{_base_.model.text_encoder}},
    loss={{_base_.model.loss}},
)
# no local branch, no proposals
no_proposals = dict(proposal_file=None)
train_dataloader = dict(dataset=no_proposals)
val_dataloader = dict(dataset=no_proposals)
test_dataloader = dict(dataset=no_proposals)
