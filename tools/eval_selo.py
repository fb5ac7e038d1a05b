"""Run galr_mm/cli/eval_selo.py, where the code and the options are."""

from galr_mm.cli.eval_selo import main

if __name__ == '__main__':
    main()
