"""Run galr_mm/cli/rerank.py, where the code and the options are."""

from galr_mm.cli.rerank import main

if __name__ == '__main__':
    main()
