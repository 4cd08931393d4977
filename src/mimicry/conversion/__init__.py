"""Swapping the attention of trained models."""

from mimicry.conversion.convert import canonicalise, convert, unshare

__all__ = ["canonicalise", "convert", "unshare"]
