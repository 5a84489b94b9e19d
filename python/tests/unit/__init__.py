"""Tests that need no cluster. A package, because tests that need one have files of the same names."""
