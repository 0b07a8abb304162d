"""C code of this project, built by the machine's own compiler and kept in the user's cache folder."""
