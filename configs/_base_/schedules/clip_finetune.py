# Fine-tuning of ready CLIP weights: a small learning rate, warm-up, cosine. Untuned: no CLIP weights were available.
# bfloat16 on a GPU: --cfg-options optim_wrapper.type=AmpOptimWrapper optim_wrapper.dtype=bfloat16
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1),
    # as open_clip: no decay of gains, biases and the temperature (a part that has a key of its own decays as a whole)
    paramwise_cfg=dict(flat_decay_mult=0.0, custom_keys=dict(log_scale=dict(decay_mult=0.0))),
    clip_grad=dict(max_norm=1.0),
)
auto_scale_lr = dict(enable=False, base_batch_size=100)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=10, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
