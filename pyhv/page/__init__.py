"""A trace as one HTML file: collected (story), drawn (charts, bus), put together (document)."""
