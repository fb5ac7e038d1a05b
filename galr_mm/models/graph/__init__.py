from galr_mm.models.graph.drea import DREA
from galr_mm.models.graph.gcn import GCN

__all__ = ['DREA', 'GCN']
