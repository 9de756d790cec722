"""Hooks: where many plugins take part in one step. See ``specs`` for what fires when."""

from __future__ import annotations

import pluggy

PROJECT = "pyengine"

#: Marks a method of a plugin as an implementation of a hook.
hookimpl = pluggy.HookimplMarker(PROJECT)
