"""One module per Hugging Face model type, named after it: `sites(model)` yields its attention sites."""
