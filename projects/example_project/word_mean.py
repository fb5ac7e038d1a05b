import torch
from mmengine.model import BaseModule
from torch import nn

from galr_mm.registry import MODELS
from galr_mm.text import Vocabulary


@MODELS.register_module()
class WordMean(BaseModule):
    """Mean of word embeddings, the simplest text encoder: a list of T captions -> (T, embed_dim)."""

    def __init__(self, vocabulary, embed_dim=512, init_cfg=None):
        super().__init__(init_cfg)
        self.vocabulary = Vocabulary.load(vocabulary)
        self.embedding = nn.EmbeddingBag(len(self.vocabulary), embed_dim, mode='mean')

    def forward(self, texts):
        """Encode captions; the retriever normalizes what comes out."""
        ids = [torch.tensor(self.vocabulary.encode(text)) for text in texts]
        starts = torch.tensor([0, *map(len, ids[:-1])]).cumsum(0)
        device = self.embedding.weight.device
        return self.embedding(torch.cat(ids).to(device), starts.to(device))
