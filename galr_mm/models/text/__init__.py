from galr_mm.models.text.bigru import BiGRUEncoder
from galr_mm.models.text.hugging_face import HuggingFaceTextEncoder
from galr_mm.models.text.sentence_vector import SentenceVectorProjection
from galr_mm.models.text.tokenized import TokenizedTextEncoder

__all__ = ['BiGRUEncoder', 'HuggingFaceTextEncoder', 'SentenceVectorProjection', 'TokenizedTextEncoder']
