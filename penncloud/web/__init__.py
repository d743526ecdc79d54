"""What a browser meets: the Klein application, one module per feature."""
