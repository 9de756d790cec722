"""The Docker Engine API as a frontend of pyengine.

Where to look: ``frontend`` serves connections and ``routes`` names every endpoint; the modules
under ``endpoints`` translate requests to the engine's services; ``views`` and ``objects`` translate
the engine's records to Docker's bodies; ``hijack`` carries attached streams.
"""
