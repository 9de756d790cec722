"""Side by side: the same docker command lines against pyengine and against a real peer, in turns.

`python -m bench` (make bench) prints medians and ratios and writes them as JSON. A case is one
small function in `bench/cases/`; a new file there is found by itself.
"""
