"""A real cluster under real work, while its workers, nodes, head and links are killed at random.

`python -m chaos --help` lists the options; docs/testing.md says how to read what it prints.
"""
