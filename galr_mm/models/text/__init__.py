from galr_mm.models.text.bigru import BiGRUEncoder, words_of
from galr_mm.models.text.hugging_face import HuggingFaceTextEncoder
from galr_mm.models.text.sentence_vector import SentenceVectorProjection
from galr_mm.models.text.tokenized import TokenizedTextEncoder

__all__ = ['BiGRUEncoder', 'HuggingFaceTextEncoder', 'SentenceVectorProjection', 'TokenizedTextEncoder', 'words_of']
