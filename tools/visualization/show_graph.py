"""Run galr_mm/cli/show_graph.py, where the code and the options are."""

from galr_mm.cli.show_graph import main

if __name__ == '__main__':
    main()
