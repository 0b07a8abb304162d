"""Work in a process of its own, which may crash, hang or exhaust memory, and how such a process ended."""
