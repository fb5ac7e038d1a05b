"""Run galr_mm/cli/word_vectors.py, where the code and the options are."""

from galr_mm.cli.word_vectors import main

if __name__ == '__main__':
    main()
