from galr_mm.structures.detections import Detections
from galr_mm.structures.ids import ImageId, stable_id
from galr_mm.structures.localization import LocalizationMap, Place, SceneEmbeddings
from galr_mm.structures.object_graph import ObjectGraph
from galr_mm.structures.retrieval_result import RetrievalResult
from galr_mm.structures.retrieval_scores import QueryBank, RerankedScores, RetrievalScores

__all__ = [
    'Detections',
    'ImageId',
    'LocalizationMap',
    'ObjectGraph',
    'Place',
    'QueryBank',
    'RerankedScores',
    'RetrievalResult',
    'RetrievalScores',
    'SceneEmbeddings',
    'stable_id',
]
