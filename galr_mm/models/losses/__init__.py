from galr_mm.models.losses.contrastive import ContrastiveLoss
from galr_mm.models.losses.triplet import TripletLoss, duplicate_pairs, triplet_loss

__all__ = ['ContrastiveLoss', 'TripletLoss', 'duplicate_pairs', 'triplet_loss']
