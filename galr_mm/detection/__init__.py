from galr_mm.detection.coco import ProposalSet, parse_coco, write_coco

__all__ = ['ProposalSet', 'parse_coco', 'write_coco']
