"""How lines get from a container to log sinks.

``spool``    what the shim writes and a sink's process reads: segments of framed lines
``several``  one writer that is several, for a log that is kept here and sent elsewhere
``cursor``   how far a sink has got, kept beside the spool
``feed``     one container's lines, from its spool to one sink, for as long as it takes
``process``  the process of one sink driver, with a feed for each container that uses it
"""
