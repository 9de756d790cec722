"""The contracts: one file per kind of driver, each read from top to bottom as its specification.

``base`` holds what all kinds share. A driver is a class named by an entry point in the group
``pyengine.<kind>``; core constructs it with a :class:`~pyengine.contracts.base.DriverContext`.
"""
