"""Container logs to collectors that speak GELF, such as Graylog."""
