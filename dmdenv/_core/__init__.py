"""What the package is built with and users need not know: pytrees, values reduced over a batch, stored values."""
