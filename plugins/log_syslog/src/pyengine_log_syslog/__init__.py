"""Container logs to syslog, local or over the network."""
