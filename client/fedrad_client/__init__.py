"""A hospital's node: everything that runs at a site is here and in fedrad_common."""
