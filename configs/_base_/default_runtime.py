default_scope = 'mmengine'  # every name below is scoped, so any default scope does

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # mmengine knows no rule for recalls by itself
    checkpoint=dict(
        type='galr_mm.ResumableCheckpointHook', interval=1, max_keep_ckpts=1, save_best='mR', rule='greater'
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
# inert until `rerank` is set, e.g. --cfg-options rerank=mr rerank_cfg.mr.k=20
custom_hooks = [dict(type='galr_mm.RerankHook')]
rerank_cfg = dict(
    mr=dict(k=30),
    rr=dict(k=30),
    product=dict(k=30),
    dsl=dict(scale=20.0),
    qbnorm=dict(scale=20.0, dynamic=False),
    csls=dict(k=10),
)

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# add dict(type='TensorboardVisBackend') or another here
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='Visualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(window_size=20, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
