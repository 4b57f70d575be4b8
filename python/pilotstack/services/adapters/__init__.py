"""Libraries of others over streams of the overlay: see docs/how-to/recipes.md.

Each module here needs the library that it is named after, which is an extra of this package.
"""
