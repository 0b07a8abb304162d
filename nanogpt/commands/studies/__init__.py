"""One file for each `nanogpt study`: HELP, add_arguments(parser), run(arguments)."""
