"""Labels and maps for new images, of any kind and size."""
