"""Containers: their records, their life, and what they are made of on the host."""
