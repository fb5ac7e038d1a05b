from galr_mm.text.normalize import caption_key, caption_words
from galr_mm.text.vocabulary import Vocabulary

__all__ = ['Vocabulary', 'caption_key', 'caption_words']
