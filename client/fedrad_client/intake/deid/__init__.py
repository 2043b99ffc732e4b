"""De-identification: what is kept of a file, and how."""
