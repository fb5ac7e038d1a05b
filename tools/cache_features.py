"""Run galr_mm/cli/cache_features.py, where the code and the options are."""

from galr_mm.cli.cache_features import main

if __name__ == '__main__':
    main()
