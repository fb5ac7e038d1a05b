from galr_mm.models.losses.contrastive import ContrastiveLoss, contrastive_loss
from galr_mm.models.losses.pairs import duplicate_pairs
from galr_mm.models.losses.triplet import TripletLoss, triplet_loss

__all__ = ['ContrastiveLoss', 'TripletLoss', 'contrastive_loss', 'duplicate_pairs', 'triplet_loss']
