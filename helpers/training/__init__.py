"""How the embedded cross-encoder was made: read.py -> lists.py -> __main__.py -> publish.py."""
