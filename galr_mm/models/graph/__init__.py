from galr_mm.models.graph.drea import DREA
from galr_mm.models.graph.gcn import GCN
from galr_mm.models.graph.local_branch import LocalBranch
from galr_mm.models.graph.roi import RoINodes

__all__ = ['DREA', 'GCN', 'LocalBranch', 'RoINodes']
