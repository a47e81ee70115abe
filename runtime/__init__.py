"""The device program and what every program shares above C: job file, links, messages, keys. No torch."""
