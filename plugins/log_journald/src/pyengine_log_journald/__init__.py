"""Container logs to systemd's journal."""
