"""What people keep texts in, a module a family: each gives the texts in one open file, one after another."""
