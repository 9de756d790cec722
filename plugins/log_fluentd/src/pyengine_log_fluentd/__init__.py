"""Container logs to collectors that speak Fluentd's forward protocol."""
