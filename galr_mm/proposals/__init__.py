from galr_mm.proposals.proposal_set import ProposalSet

__all__ = ['ProposalSet']
