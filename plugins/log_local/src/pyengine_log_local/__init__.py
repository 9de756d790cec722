"""Docker's ``local`` logging driver: compact logs that only this engine reads. ``writer`` is for
the shim, ``reader`` for the daemon, ``records`` for both."""
