"""The daemon's side of the supervisor: start shims, find them again, talk to them."""
