"""Run records, tables, figures and the W&B mirror: values and files in, files out, no training code."""
