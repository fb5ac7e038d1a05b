"""Run galr_mm/cli/publish_model.py, where the code and the options are."""

from galr_mm.cli.publish_model import main

if __name__ == '__main__':
    main()
