"""Token ids in a data folder, and the order in which a training reads them, which a seed decides."""
