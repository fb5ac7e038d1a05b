# GaLR with a ResNet-18 and a bi-GRU, both from scratch. A child sets the vocabulary.
# ImageNet weights: --cfg-options model.backbone.init_cfg.type=Pretrained \
#                                 model.backbone.init_cfg.checkpoint=torchvision://resnet18
model = dict(
    type='galr_mm.GaLR',
    backbone=dict(type='mmpretrain.ResNet', depth=18, out_indices=(0, 1, 2, 3)),
    visual=dict(type='galr_mm.MVSA'),
    local=dict(
        type='galr_mm.LocalBranch',
        # num_classes: of the detector that made the proposals; 10 is NWPU VHR-10, 15 is DOTA
        drea=dict(type='galr_mm.DREA', num_classes=10, num_nodes=20, iou_thr=0.5, tau=0.95, enhancement='area'),
        gcn=dict(type='galr_mm.GCN', channels=(20, 10, 20)),
    ),
    fusion=dict(type='galr_mm.MIDF', mode='paper'),
    text_encoder=dict(type='galr_mm.BiGRUEncoder', vocabulary='vocabulary.json', dropout=0.1),
    loss=dict(type='galr_mm.ContrastiveLoss', temperature=0.07, mask_duplicates=True),
)
