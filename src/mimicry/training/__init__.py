"""Lightning modules, schedules and measurements."""

# Host models look our attention up there, also those that a spawned process unpickles without having converted any.
from mimicry.conversion import seam as seam
