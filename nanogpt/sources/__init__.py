"""Documents from where they lie: the catalogue, downloads and mirrors, and files in the formats that people have."""
