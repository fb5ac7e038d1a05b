"""The released GaLR on RSICD: skip-thought sentence vectors, the released fusion, augmentation, loss and schedule.

What differs: the backbone starts from nothing unless model.backbone.init_cfg says otherwise, and validation is one
fixed draw. The sentence vectors come as ``data/rsicd/skip_thoughts.npy``, (captions, 2400), row = sentid. A released
checkpoint is converted by tools/model_converters/released_galr.py.
"""

_base_ = [
    './_base_/datasets/rsicd.py',
    './_base_/datasets/image_text_256px.py',
    './_base_/default_runtime.py',
]

model = dict(
    type='galr_mm.GaLR',
    backbone=dict(type='mmpretrain.ResNet', depth=18, out_indices=(0, 1, 2, 3)),
    visual=dict(type='galr_mm.MVSA'),
    local=dict(
        type='galr_mm.LocalBranch',
        # 15 classes of DOTA + score + box: 20 dimensions an object
        drea=dict(type='galr_mm.DREA', num_classes=15, num_nodes=20),
        gcn=dict(type='galr_mm.GCN', channels=(20, 10, 20)),
    ),
    fusion=dict(type='galr_mm.ReleasedMIDF'),
    text_encoder=dict(type='galr_mm.SentenceVectorProjection', in_dim=2400),
    loss=dict(type='galr_mm.TripletLoss', margin=0.2, negatives='all', mask_duplicates=False),
)
dataset = dict(data_root={{_base_.data_root}}, ann_file={{_base_.ann_file}}, sentence_vectors='skip_thoughts.npy')
train_pipeline = [
    dict(type='galr_mm.LoadImageWithProposals'),
    dict(type='mmengine.Resize', scale=(278, 278)),
    dict(type='galr_mm.RandomRotate', angle_range=(0, 90)),
    dict(type='galr_mm.RandomCrop', crop_size=256),
    dict(type='galr_mm.PackRetrievalInputs'),
]
train_dataloader = dict(drop_last=False, dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=2e-4))
auto_scale_lr = dict(enable=False, base_batch_size=100)
param_scheduler = [dict(type='StepLR', step_size=20, gamma=0.7, by_epoch=True)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=70, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
