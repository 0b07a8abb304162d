"""What is to be seen of a training or a run, while it works and afterwards: in a terminal and on a page."""
