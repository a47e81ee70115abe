"""The device program, and what all programs share above C: job file, links, messages, keys."""
