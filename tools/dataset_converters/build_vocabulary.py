"""Run galr_mm/cli/build_vocabulary.py, where the code and the options are."""

from galr_mm.cli.build_vocabulary import main

if __name__ == '__main__':
    main()
