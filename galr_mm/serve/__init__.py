"""An index as a page in a browser. Nothing of it leaves the machine, and no path of the server is in it.

``docs/archive.md`` says how it is used and what it refuses.
"""

from galr_mm.serve.app import make_app
from galr_mm.serve.library import Images, Library
from galr_mm.serve.server import serve

__all__ = ['Images', 'Library', 'make_app', 'serve']
