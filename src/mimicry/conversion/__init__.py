"""Swapping the attention of trained models."""

from mimicry.conversion.convert import canonicalise, convert, unshare
from mimicry.conversion.loading import load

__all__ = ["canonicalise", "convert", "load", "unshare"]
