"""Lightning modules, schedules and measurements."""
