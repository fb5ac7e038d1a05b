"""Child registries of mmengine's roots.

``locations`` make every scoped name (``type='galr_mm.GaLR'``) importable by itself, from any OpenMMLab config and under
any default scope: no ``custom_imports`` and no ``register_all_modules`` are needed. Once this module is imported,
mmengine finds our configs by ``galr_mm::<folder>/<name>.py``, in ``_base_`` and in ``mmengine.hub.get_config``.
"""

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import EVALUATOR as MMENGINE_EVALUATOR
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

HOOKS = Registry('hook', parent=MMENGINE_HOOKS, locations=['galr_mm.engine.hooks'])
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, locations=['galr_mm.datasets'])
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, locations=['galr_mm.datasets.transforms'])
MODELS = Registry('model', parent=MMENGINE_MODELS, locations=['galr_mm.models'])
EVALUATOR = Registry('evaluator', parent=MMENGINE_EVALUATOR, locations=['galr_mm.evaluation'])
# Metrics here are callables RetrievalScores -> dict[str, float].
METRICS = Registry('metric', parent=MMENGINE_METRICS, locations=['galr_mm.evaluation'])
# Re-rankers are callables RetrievalScores -> RetrievalScores. mmengine has no root for them; FUNCTIONS is the one whose
# children other packages reach by scope.
RERANKERS = Registry('reranker', parent=MMENGINE_FUNCTIONS, locations=['galr_mm.evaluation'])

MODULE2PACKAGE.setdefault('galr_mm', 'galr_mm')  # mmengine has a list of packages whose configs it looks for
