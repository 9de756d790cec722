"""Conformance kits, one per contract, and the pytest plugin."""
