"""One file a command of `nanogpt data`: HELP, add_arguments(parser), run(arguments) -> exit code."""
