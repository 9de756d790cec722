"""Docker's json-file logs. ``writer`` is for the shim, ``reader`` for the daemon."""
