from galr_mm.models.detection.proposal_generator import ProposalGenerator

__all__ = ['ProposalGenerator']
