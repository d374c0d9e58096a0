"""Private building blocks: pytrees, declared fields, values reduced over a batch, materialised values."""
