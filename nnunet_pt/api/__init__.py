"""Whole workflows as one call, for programs and notebooks."""
