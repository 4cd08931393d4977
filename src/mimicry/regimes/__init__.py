"""The paper's procedures, as ordered stages."""
