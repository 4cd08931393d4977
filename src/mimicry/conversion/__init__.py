"""Swapping the attention of trained models."""

from mimicry.conversion.convert import canonicalise, convert

__all__ = ["canonicalise", "convert"]
