"""One file a command of `nanogpt`: HELP (its line in the list), add_arguments(parser), run(arguments) -> exit code."""
