"""A complete app in a few lines, for the tests of the shared command line."""
