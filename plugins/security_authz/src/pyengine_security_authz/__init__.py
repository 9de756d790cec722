"""Docker's authorization plugins."""
