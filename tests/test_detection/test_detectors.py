"""The shipped detectors train a step on boxes of their classes."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from galr_mm.registry import MODELS
from tests.helpers import ROOT

pytestmark = pytest.mark.detect


@pytest.mark.parametrize('name', ['faster-rcnn_r18_nwpu', 'rtmdet-tiny_nwpu', 'rtmdet-tiny_dota'])
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
