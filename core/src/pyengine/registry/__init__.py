"""The client of the OCI distribution API: pulls, pushes, logs in, searches.

``client.py`` is the way in; ``repository.py`` is one name on its registry and mirrors. Beneath
them: ``hosts.py`` (which endpoint, with which TLS and proxy), ``auth.py`` (challenges and tokens),
``session.py`` (one request), ``download.py`` and ``upload.py`` (blobs), ``failures.py`` (what went
wrong, and Docker's words for it).

https://github.com/opencontainers/distribution-spec
"""
