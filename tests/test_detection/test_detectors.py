"""The shipped detectors train on boxes of their classes."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from galr_mm.integrations.efficientnet_lite import efficientnet_lite_weights
from galr_mm.registry import MODELS
from tests.helpers import DETECTOR_CONFIG, ROOT

pytestmark = pytest.mark.detect
LITE0 = 'rtmdet-lite0_nwpu'


@pytest.mark.parametrize(
    'name',
    [
        'faster-rcnn_r18_nwpu',
        'rtmdet-tiny_nwpu',
        'rtmdet-tiny_dota',
        pytest.param(LITE0, marks=pytest.mark.pretrained),
    ],
)
@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmdet'])
def test_a_training_step(name, scope):
    from mmdet.structures import DetDataSample

    torch.manual_seed(0)
    cfg = Config.fromfile(ROOT / f'configs/detection/{name}.py')
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    samples = []
    for label in (0, len(cfg.metainfo.classes) - 1):
        sample = DetDataSample(metainfo=dict(img_shape=(128, 128), ori_shape=(128, 128), batch_input_shape=(128, 128)))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[20.0, 20.0, 60.0, 70.0]]), labels=torch.tensor([label])
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
        samples.append(sample)
    inputs = [torch.randint(0, 255, (3, 128, 128), dtype=torch.uint8) for _ in samples]
    data = model.data_preprocessor(dict(inputs=inputs, data_samples=samples), True)
    losses = model(**data, mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert loss.isfinite()
    grads = [p.grad for p in model.backbone.parameters() if p.requires_grad]
    assert all(grad is not None for grad in grads)
    assert sum(grad.abs().sum() for grad in grads) > 0


@pytest.mark.slow
@pytest.mark.pretrained
def test_imagenet_weights_train(mini, tmp_path):
    """A detector on EfficientNet-Lite0 starts from the package's weights, keeps what is frozen, and learns."""
    cfg, small = (Config.fromfile(path) for path in (ROOT / f'configs/detection/{LITE0}.py', DETECTOR_CONFIG))
    for split in ('train', 'val'):
        loader = small[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = f'{mini}/'
        cfg[f'{split}_dataloader'] = loader
    cfg.val_evaluator.ann_file = str(mini / 'instances_val.json')
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.model.bbox_head.num_classes = len(small.metainfo.classes)
    cfg.train_cfg.update(max_epochs=3, val_interval=3)
    cfg.merge_from_dict(dict(param_scheduler=[], work_dir=str(tmp_path), default_hooks=dict(logger=dict(interval=3))))
    runner = Runner.from_cfg(cfg)
    package = efficientnet_lite_weights('lite0')
    runner.model.init_weights()
    net = runner.model.backbone.net
    assert all(torch.equal(value, package[name]) for name, value in net.state_dict().items())
    runner.train()
    # that of the classes grows at first, with the overlap it is to predict; the first step has no overlap at all
    losses = runner.message_hub.get_scalar('train/loss_bbox').data[0]
    assert losses[-3:].mean() < losses[1:4].mean()
    assert 'val/coco/bbox_mAP' in runner.message_hub.log_scalars
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, package[name])}
    trained = [f'blocks.{stage - 1}.' for stage in (3, 4, 5, 6, 7)]
    assert all(name.startswith(tuple(trained)) for name in moved)  # stages 0 to 2 are frozen, 8 is not in use
    assert all(any(name.startswith(stage) for name in moved) for stage in trained)
    assert not any('running' in name for name in moved)
