from galr_mm.detection.coco import ProposalSet

__all__ = ['ProposalSet']
