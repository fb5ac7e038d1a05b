from galr_mm.structures.detections import Detections
from galr_mm.structures.object_graph import ObjectGraph
from galr_mm.structures.retrieval_scores import RetrievalScores

__all__ = ['Detections', 'ObjectGraph', 'RetrievalScores']
